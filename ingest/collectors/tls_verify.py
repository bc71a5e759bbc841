"""What OpenSSL says of a certificate chain, in classes that each have a remedy of their own.

OpenSSL reports one error of a chain, the first that it meets, as a number. The numbers and their meaning are from
`openssl/x509_vfy.h` of OpenSSL 3.0 to 3.5; a number that is not in the table is `invalid` and told in OpenSSL's words.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from cryptography import x509

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: not among Python's VerifyFlags
SHOWN_NAME = 500


class Problem(StrEnum):
    """Why a client turns away."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    HOST_MISMATCH = "host_mismatch"
    SELF_SIGNED = "self_signed"
    INCOMPLETE_CHAIN = "incomplete_chain"
    UNTRUSTED = "untrusted"
    ISSUER_EXPIRED = "issuer_expired"
    ISSUER_NOT_YET_VALID = "issuer_not_yet_valid"
    INVALID_ISSUER = "invalid_issuer"
    NAME_CONSTRAINTS = "name_constraints"
    WEAK_CRYPTOGRAPHY = "weak_cryptography"
    WRONG_PURPOSE = "wrong_purpose"
    BAD_SIGNATURE = "bad_signature"
    REVOKED = "revoked"
    REVOCATION_UNKNOWN = "revocation_unknown"
    MALFORMED = "malformed"
    INVALID = "invalid"
    HANDSHAKE = "handshake"


REMEDIES = {
    Problem.EXPIRED: "Renew the certificate and reload the server; see why the renewal did not happen",
    Problem.NOT_YET_VALID: "Compare the clocks of server and issuer",
    Problem.HOST_MISMATCH: "Issue a certificate whose subjectAltName holds the host, or serve the one that does",
    Problem.SELF_SIGNED: "Serve a certificate of a trusted issuer, or name this one in the option ca_file",
    Problem.INCOMPLETE_CHAIN: "Serve the intermediate certificates with the server's own, in one file, or name the issuer in "
    "the option ca_file",
    Problem.UNTRUSTED: "Use an issuer that clients trust, or name its root in the option ca_file",
    Problem.ISSUER_EXPIRED: "Serve the issuer's present intermediate certificates; the server's own need not be renewed for it",
    Problem.ISSUER_NOT_YET_VALID: "Compare the clocks of this host and the issuer; serve an intermediate that is valid already",
    Problem.INVALID_ISSUER: "Look which certificates stand in the served chain: one of them may not issue others, or the chain "
    "is longer than an issuer allows",
    Problem.NAME_CONSTRAINTS: "Have the certificate issued by one that may issue for this name: an issuer in the chain is "
    "constrained to others",
    Problem.WEAK_CRYPTOGRAPHY: "Issue it anew with a key of at least 2,048 bits RSA or 224 bits elliptic curve and with SHA-256; "
    "where an issuer is weak, change the issuer",
    Problem.WRONG_PURPOSE: "Issue a certificate for servers: extendedKeyUsage must hold serverAuth, "
    "also that of an issuer that has one",
    Problem.BAD_SIGNATURE: "See that certificate and chain belong together: a signature does not fit the issuer that is served",
    Problem.REVOKED: "Issue a new certificate with a new key; see why the issuer revoked this one",
    Problem.REVOCATION_UNKNOWN: "Get a current revocation list of the issuer",
    Problem.MALFORMED: "Issue it anew: it breaks a rule of RFC 5280 that strict clients check",
    Problem.INVALID: "Run openssl s_client -connect HOST:PORT -servername NAME -verify_return_error for the details",
    Problem.HANDSHAKE: "Check that the port speaks TLS, and its protocol versions and ciphers",
}

_CODES: dict[Problem, Iterable[int]] = {
    Problem.EXPIRED: (10, 14),
    Problem.NOT_YET_VALID: (9, 13),
    Problem.HOST_MISMATCH: (62, 63, 64),
    Problem.SELF_SIGNED: (18,),
    Problem.UNTRUSTED: (2, 19, 20, 21, 27, 28),
    Problem.INVALID_ISSUER: (22, 25, 29, 30, 31, 32, 37, 38, 55, 79, 80, 81, 82),
    Problem.NAME_CONSTRAINTS: (47, 48, 49, 51, 52, 53),
    Problem.WEAK_CRYPTOGRAPHY: (*range(56, 62), 66, 67, 68, 76),
    Problem.WRONG_PURPOSE: (26, 39),
    Problem.BAD_SIGNATURE: (4, 6, 7, 24, 77, 78),
    Problem.REVOKED: (23,),
    Problem.REVOCATION_UNKNOWN: (3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44, 54, 73, 74, 75),
    Problem.MALFORMED: (34, 41, 42, 43, 45, 46, *range(83, 95)),
}
_BY_CODE = {code: problem for problem, codes in _CODES.items() for code in codes}
HOST_CODES = frozenset(_CODES[Problem.HOST_MISMATCH])


@dataclass(frozen=True)
class Certificate:
    """A certificate as it was served. What cannot be read of it is None: OpenSSL takes what others do not."""

    der: bytes

    @cached_property
    def _parsed(self) -> x509.Certificate | None:
        with suppress(ValueError, TypeError, OverflowError):
            return x509.load_der_x509_certificate(self.der)
        return None

    @cached_property
    def ends(self) -> datetime | None:
        """When it expires, UTC."""
        ends: datetime | None = self._of("not_valid_after_utc")
        return ends

    @cached_property
    def begins(self) -> datetime | None:
        """From when on it is valid, UTC."""
        begins: datetime | None = self._of("not_valid_before_utc")
        return begins

    @cached_property
    def subject(self) -> str | None:
        """Whose it is, at most 500 characters of RFC 4514."""
        return self._name("subject")

    @cached_property
    def issuer(self) -> str | None:
        """Who issued it, likewise."""
        return self._name("issuer")

    @cached_property
    def serial(self) -> str | None:
        """Its serial number, hexadecimal."""
        number = self._of("serial_number")
        return None if number is None else f"{number:x}"

    def remaining_s(self, now_ms: int) -> float | None:
        """Time until it expires, s; negative afterwards."""
        return None if self.ends is None else self.ends.timestamp() - now_ms / 1000

    def has_begun(self, now_ms: int) -> bool:
        """Whether its time has come; also when that cannot be read."""
        return self.begins is None or self.begins.timestamp() <= now_ms / 1000

    def has_ended(self, now_ms: int) -> bool:
        """Whether it has expired."""
        left_s = self.remaining_s(now_ms)
        return left_s is not None and left_s <= 0

    def _of(self, field: str) -> Any:
        with suppress(ValueError, TypeError, OverflowError):
            return getattr(self._parsed, field, None)
        return None

    def _name(self, field: str) -> str | None:
        with suppress(ValueError, TypeError):
            name: x509.Name | None = self._of(field)
            return None if name is None else name.rfc4514_string()[:SHOWN_NAME]
        return None


def problem_of(error: ssl.SSLError, served: tuple[Certificate, ...], now_ms: int) -> Problem:
    """The class of what is wrong. `served` is the chain as the server sent it, the server's own certificate first.

    OpenSSL's number decides, but the end of the server's own certificate comes first: whatever else is wrong with an expired one
    is mended by the renewal.
    """
    if not isinstance(error, ssl.SSLCertVerificationError):
        return Problem.HANDSHAKE
    if served and served[0].has_ended(now_ms):
        return Problem.EXPIRED
    if served and not served[0].has_begun(now_ms):
        return Problem.NOT_YET_VALID
    problem = _BY_CODE.get(error.verify_code, Problem.INVALID)
    if problem is Problem.EXPIRED and served:
        return Problem.ISSUER_EXPIRED
    if problem is Problem.NOT_YET_VALID and served:
        return Problem.ISSUER_NOT_YET_VALID
    # 20 and 21: the issuer is neither among what is trusted nor among what was served.
    if error.verify_code in (20, 21) and len(served) == 1:
        return Problem.INCOMPLETE_CHAIN
    return problem


def chain_of(connection: ssl.SSLObject, *, verified: bool) -> tuple[Certificate, ...]:
    """The chain of a finished handshake, the server's own certificate first: as it was served, or as it was verified.

    Python offers both from 3.13 on; before, they stand one level lower.
    """
    name = "get_verified_chain" if verified else "get_unverified_chain"
    lower = getattr(connection, "_sslobj", None)
    ask = getattr(connection, name, None) or getattr(lower, name, None)
    found = (ask() if ask else None) or ()
    return tuple(Certificate(_der(one)) for one in found) or _leaf_alone(connection)


def _der(found: Any) -> bytes:
    return found if isinstance(found, bytes) else bytes(found.public_bytes(ssl._ssl.ENCODING_DER))  # type: ignore[attr-defined]


def _leaf_alone(connection: ssl.SSLObject) -> tuple[Certificate, ...]:
    der = connection.getpeercert(binary_form=True)
    return (Certificate(der),) if der else ()


def shown(moment: datetime | None) -> str:
    """A time for people: `2026-11-26 00:00 UTC`."""
    return "an unreadable time" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
