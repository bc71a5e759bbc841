"""Looks at the certificate of a TLS endpoint by a handshake, as a client would see it.

The first handshake verifies everything. When that fails, a second one without verification reads the certificate, so that
expired, of another host, self-signed and of an unknown issuer are told apart. Nothing is sent over either connection.
Source: RFC 6125 (names), RFC 5280 (validity); OpenSSL, X509_STORE_CTX_get_error.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from time import perf_counter
from urllib.parse import urlsplit

from cryptography import x509
from pydantic import Field

from ingest.collector import Collected, CollectorKind, Options, Target, Unavailable
from ingest.collectors.edges import Edges, Fault
from schemas.records import Scalar
from schemas.series import identity

HTTPS_PORT = 443


class TlsOptions(Options):
    """What may be set for one endpoint."""

    server_name: str | None = Field(None, description="Name to ask for and to verify; the url's host when left out.")
    ca_file: str | None = Field(None, description="PEM file of issuers to trust instead of the system's.")


class Problem(StrEnum):
    """Why a client turns away."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    HOST_MISMATCH = "host_mismatch"
    SELF_SIGNED = "self_signed"
    UNTRUSTED = "untrusted"
    HANDSHAKE = "handshake"


MENDS = {
    Problem.EXPIRED: "Renew the certificate and reload the server; see why the renewal did not happen",
    Problem.NOT_YET_VALID: "Compare the clocks of server and issuer",
    Problem.HOST_MISMATCH: "Issue a certificate that names the host, or serve the one that does",
    Problem.SELF_SIGNED: "Serve a certificate of a trusted issuer, or name it in the option ca_file",
    Problem.UNTRUSTED: "Serve the whole chain up to a trusted issuer, or name the issuer in the option ca_file",
    Problem.HANDSHAKE: "Check that the port speaks TLS, and its protocol versions and ciphers",
}
# OpenSSL's x509_vfy.h: self-signed leaf, self-signed certificate in the chain.
SELF_SIGNED_CODES = frozenset({18, 19})


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect and which name to ask for."""

    host: str
    port: int
    name: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """What one handshake gave: its duration with the TCP connect, s, the leaf in DER, or why it failed."""

    duration_s: float
    leaf: bytes | None
    error: ssl.SSLError | None = None


class Tls:
    """Which problem was told last."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._options = target.options(TlsOptions)
        self._place = _place(target.url, self._options.server_name, target.resource.name)
        self._edges = Edges(target, "tls.certificate.problem", "tls.certificate.restored")
        self._strict = self._context()
        self._lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._lenient.check_hostname = False
        self._lenient.verify_mode = ssl.CERT_NONE

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One handshake, a second one only when the first fails."""
        first = await self._handshake(self._strict)
        seen = first if first.error is None else await self._handshake(self._lenient)
        leaf = _certificate(seen.leaf)
        problem = None if first.error is None else problem_of(first.error, leaf, self._place.name, now_ms)
        faults = {} if problem is None else {self._place.name: _fault(problem, first.error, leaf)}
        scrape = self._target.scrape(self._points(first, leaf, now_ms), now_ms)
        return Collected([scrape, *self._edges.told(faults, now_ms)])

    async def close(self) -> None:
        """Every look has its own connections."""

    def _points(self, first: Handshake, leaf: x509.Certificate | None, now_ms: int) -> dict[str, float | None]:
        tenant = self._target.resource.tenant
        values = {
            "tls.handshake.success": float(first.error is None),
            "tls.handshake.duration": first.duration_s if first.error is None else None,
            "tls.certificate.validity.remaining": remaining_s(leaf, now_ms) if leaf else None,
            "tls.certificate.host_match": float(names_host(leaf, self._place.name)) if leaf else None,
        }
        return {identity(metric, {"tenant.id": tenant} if tenant else None): value for metric, value in values.items()}

    async def _handshake(self, context: ssl.SSLContext) -> Handshake:
        started = perf_counter()
        try:
            # A connection that is closed before the handshake is done is an OSError here, and a fault of TLS there.
            _, writer = await asyncio.open_connection(self._place.host, self._place.port)
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            await writer.start_tls(context, server_hostname=self._place.name)
            duration_s = perf_counter() - started
            return Handshake(duration_s, writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        except ssl.SSLError as error:
            return Handshake(perf_counter() - started, None, error)
        except ConnectionError as error:
            return Handshake(perf_counter() - started, None, ssl.SSLError(str(error) or "the server hung up"))
        finally:
            writer.transport.abort()

    def _unavailable(self, error: OSError) -> Unavailable:
        place = f"{self._place.host}:{self._place.port}"
        return Unavailable(
            self._target.resource.name,
            f"{place}: {error}",
            "Check that the server listens and that its address can be reached from here",
        )

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._options.ca_file)
        except OSError as error:
            raise ValueError(
                f"resource {self._target.resource.name}: options: ca_file {self._options.ca_file}: {error}; "
                "it must be a PEM file of certificates"
            ) from error


def problem_of(error: ssl.SSLError, leaf: x509.Certificate | None, name: str, now_ms: int) -> Problem:
    """What is wrong, by the certificate itself where it tells; OpenSSL names only the first fault that it meets."""
    if leaf is None or not isinstance(error, ssl.SSLCertVerificationError):
        return Problem.HANDSHAKE
    if remaining_s(leaf, now_ms) <= 0:
        return Problem.EXPIRED
    if leaf.not_valid_before_utc.timestamp() > now_ms / 1000:
        return Problem.NOT_YET_VALID
    if not names_host(leaf, name):
        return Problem.HOST_MISMATCH
    return Problem.SELF_SIGNED if error.verify_code in SELF_SIGNED_CODES else Problem.UNTRUSTED


def _certificate(der: bytes | None) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der) if der else None
    except ValueError:
        return None  # OpenSSL took what cryptography does not; the handshake's own verdict stands


def remaining_s(leaf: x509.Certificate, now_ms: int) -> float:
    """Time until it expires, s; negative afterwards."""
    return leaf.not_valid_after_utc.timestamp() - now_ms / 1000


def names_host(leaf: x509.Certificate, name: str) -> bool:
    """Whether the subject's alternative names hold the host; the common name no longer counts (RFC 6125)."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    with suppress(ValueError):
        return ip_address(name) in names.get_values_for_type(x509.IPAddress)
    return any(_matches(pattern, name) for pattern in names.get_values_for_type(x509.DNSName))


def _matches(pattern: str, name: str) -> bool:
    """A star stands for the whole of the first label and for nothing else."""
    pattern, name = pattern.lower().rstrip("."), name.lower().rstrip(".")
    if pattern.startswith("*."):
        return pattern[2:] == name.partition(".")[2] != ""
    return pattern == name


def _fault(problem: Problem, error: ssl.SSLError | None, leaf: x509.Certificate | None) -> Fault:
    attributes: dict[str, Scalar] = {"tls.problem": problem.value}
    if leaf is None:
        return Fault(f"{problem}: {_reason(error)}", MENDS[problem], attributes)
    attributes |= {
        "tls.server.subject": leaf.subject.rfc4514_string(),
        "tls.server.issuer": leaf.issuer.rfc4514_string(),
        "tls.server.not_after": leaf.not_valid_after_utc.isoformat(),
        "tls.server.serial_number": f"{leaf.serial_number:x}",
    }
    valid = f"valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return Fault(f"{problem}: {_reason(error)}; {valid}", MENDS[problem], attributes)


def _reason(error: ssl.SSLError | None) -> str:
    told = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return str(told).lower().replace("_", " ")


def _place(url: str, server_name: str | None, resource: str) -> Place:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or HTTPS_PORT
    except ValueError as error:
        raise ValueError(f"resource {resource}: url {url!r}: {error}; it must read tls://HOST:PORT") from error
    if parts.scheme not in ("tls", "https") or not host:
        raise ValueError(f"resource {resource}: url {url!r} must read tls://HOST:PORT")
    return Place(host, port, server_name or host)


KIND = CollectorKind("tls", Tls, TlsOptions)
