"""Who sent a request: Standard Webhooks signatures, bearer tokens and GitHub's signature.

Several keys may be valid at a time, so that they can be rotated. Every comparison is made with every key and takes the
same time whatever differs. What headers alone can prove is checked before a byte of the body is read (`screen`), the rest
over the whole body (`prove`).
Sources: Standard Webhooks 1.0 (standardwebhooks.com); GitHub REST documentation, validating webhook deliveries.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ingest.receivers.refusals import Refused, unauthorized
from ingest.receivers.request import Request
from schemas.estate import Key

TOLERANCE_MS = 5 * 60_000
PREFIX = "whsec_"
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")
GITHUB_SIGNED = "x-hub-signature-256"
MIN_CHARACTERS, MIN_SIGNING_BYTES = 16, 16
SIGNATURES_MAX = 16  # of one request; a sender that rotates its key sends two


@dataclass(frozen=True, slots=True)
class Holder:
    """A key with what its holder may do."""

    secret: str = field(repr=False)
    key: Key

    @property
    def name(self) -> str:
        """Who holds it."""
        return self.key.holder


class Proof(Protocol):
    """How a receiver knows who sends."""

    def screen(self, headers: Mapping[str, str], now_ms: int) -> Holder | None:
        """The sender as far as headers prove it; None where the body must. Raises Refused (401) where nothing can."""

    def prove(self, request: Request, now_ms: int) -> Holder:
        """The sender. Raises Refused (401)."""


class StandardWebhooks:
    """`whsec_...` signs, every key is a bearer token as well.

    Raises ValueError when there is no key, or one that is too short to keep a secret.
    """

    def __init__(self, holders: Sequence[Holder]) -> None:
        _check(holders)
        self._tokens = [(_digest(one.secret.encode()), one) for one in holders]
        self._signing = [(key, one) for one in holders if (key := signing_key(one.secret))]

    def screen(self, headers: Mapping[str, str], now_ms: int) -> Holder | None:
        """The holder of the bearer token, or None where a signature that can be right waits for the body."""
        if "authorization" in headers:
            return self._bearer(headers["authorization"])
        if not all(name in headers for name in SIGNED):
            raise unauthorized(
                f"send a bearer token in Authorization, or the headers {', '.join(SIGNED)} of Standard Webhooks"
            )
        _check_stamp(headers["webhook-timestamp"], now_ms)
        return None

    def prove(self, request: Request, now_ms: int) -> Holder:
        """The holder of the token or of the key that signed."""
        if holder := self.screen(request.headers, now_ms):
            return holder
        identifier, stamp, given = (request.headers[name] for name in SIGNED)
        signed = b".".join((identifier.encode(errors="replace"), stamp.encode(), request.body))
        right = [(b"v1," + base64.b64encode(_hmac(key, signed)), one) for key, one in self._signing]
        found = [_only(one.encode(errors="replace"), right) for one in given.split(" ")[:SIGNATURES_MAX]]
        holders = [holder for holder in found if holder]
        if not holders:
            raise unauthorized("webhook-signature: it does not fit webhook-id, webhook-timestamp and the body")
        return holders[0]

    def _bearer(self, header: str) -> Holder:
        scheme, _, token = header.partition(" ")
        holder = _only(_digest(token.strip().encode(errors="replace")), self._tokens)
        if scheme.lower() != "bearer" or holder is None:
            raise unauthorized("Authorization: it must be Bearer with a key of this receiver")
        return holder


class GitHubSignature:
    """The HMAC of the body alone. Raises ValueError as `StandardWebhooks` does."""

    def __init__(self, holders: Sequence[Holder]) -> None:
        _check(holders)
        self._keys = [(one.secret.encode(), one) for one in holders]

    def screen(self, headers: Mapping[str, str], now_ms: int) -> Holder | None:
        """None, for the body proves it; Refused where the signature cannot be one."""
        if not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", headers.get(GITHUB_SIGNED, "")):
            raise _not_github()
        return None

    def prove(self, request: Request, now_ms: int) -> Holder:
        """The holder of the secret that signed."""
        self.screen(request.headers, now_ms)
        given = request.headers[GITHUB_SIGNED].removeprefix("sha256=").lower().encode()
        holder = _only(given, [(_hmac(key, request.body).hex().encode(), one) for key, one in self._keys])
        if holder is None:
            raise _not_github()
        return holder


def signing_key(secret: str) -> bytes | None:
    """The bytes behind `whsec_...`, with or without padding, in either alphabet of base64; None for a bearer token.

    Raises ValueError when they are none, or too few.
    """
    if not secret.startswith(PREFIX):
        return None
    text = secret.removeprefix(PREFIX).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a key that starts with {PREFIX} goes on in base64") from error
    if len(key) < MIN_SIGNING_BYTES:
        raise ValueError(
            f"a key that starts with {PREFIX} holds at least {MIN_SIGNING_BYTES} bytes; 24 random ones are usual"
        )
    return key


def _check(holders: Sequence[Holder]) -> None:
    if not holders or any(len(one.secret) < MIN_CHARACTERS for one in holders):
        raise ValueError("a key needs at least 16 characters, as whsec_ and 24 random bytes in base64")
    if len({one.secret for one in holders}) < len(holders):
        raise ValueError("two keys are equal, so nobody knows whose scope holds; give each sender its own")


def _check_stamp(stamp: str, now_ms: int) -> None:
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise unauthorized(f"webhook-timestamp: {stamp[:20]!r} must be Unix seconds")
    if abs(int(stamp) * 1000 - now_ms) > TOLERANCE_MS:
        raise unauthorized(f"webhook-timestamp: {stamp} must be within 5 minutes of {now_ms // 1000}")


def _only(given: bytes, known: Sequence[tuple[bytes, Holder]]) -> Holder | None:
    """The holder of what equals the given; all are compared, so that the time does not tell which."""
    found = None
    for right, holder in known:
        if hmac.compare_digest(given, right):
            found = holder
    return found


def _digest(token: bytes) -> bytes:
    """Equally long for all tokens, so that comparing tells nothing of their length."""
    return hashlib.sha256(token).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _not_github() -> Refused:
    return unauthorized("X-Hub-Signature-256: it must be sha256= and the HMAC of the body with the secret")
