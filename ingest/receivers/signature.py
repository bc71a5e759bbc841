"""Who sent a request: Standard Webhooks signatures and bearer tokens.

Several keys may be valid at a time, so that they can be rotated. Comparisons take the same time whatever differs.
Source: Standard Webhooks 1.0 (standardwebhooks.com).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime

from standardwebhooks import Webhook

from ingest.receivers.receiver import Request, unauthorized

TOLERANCE_MS = 5 * 60_000
PREFIX = "whsec_"
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Keys:
    """The keys of a receiver: `whsec_...` signs, every key is a bearer token as well.

    Raises ValueError when there is none, or one that is too short to keep a secret.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._tokens = [key.encode() for key in keys]
        if not self._tokens or any(len(token) < 16 for token in self._tokens):
            raise ValueError("a key needs at least 16 characters, as whsec_ and 24 random bytes in base64")
        self._webhooks = [webhook for token in self._tokens if (webhook := _webhook(token.decode()))]

    def check(self, request: Request, now_ms: int) -> None:
        """Raises Refused (401) unless the request is signed, now, or carries a token."""
        if "authorization" in request.headers:
            self._check_bearer(request.headers["authorization"])
        elif all(name in request.headers for name in SIGNED):
            self._check_signature(request, now_ms)
        else:
            raise unauthorized(f"send Authorization: Bearer, or the headers {', '.join(SIGNED)} of Standard Webhooks")

    def _check_bearer(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not _any_equal(token.strip().encode(), self._tokens):
            raise unauthorized("Authorization: it must be Bearer with a key of this receiver")

    def _check_signature(self, request: Request, now_ms: int) -> None:
        identifier, stamp, given = (request.headers[name] for name in SIGNED)
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
            raise unauthorized(f"webhook-timestamp: {stamp[:20]!r} must be Unix seconds")
        if abs(int(stamp) * 1000 - now_ms) > TOLERANCE_MS:
            raise unauthorized(f"webhook-timestamp: {stamp} must be within 5 minutes of {now_ms // 1000}")
        moment = datetime.fromtimestamp(int(stamp), UTC)
        right = [webhook.sign(identifier, moment, request.text()).encode() for webhook in self._webhooks]
        if not any(_any_equal(one.encode(), right) for one in given.split(" ")):
            raise unauthorized("webhook-signature: it does not fit webhook-id, webhook-timestamp and the body")


def equal(given: str, right: str) -> bool:
    """Whether two texts are equal, in a time that tells nothing."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _any_equal(given: bytes, known: Iterable[bytes]) -> bool:
    return any(hmac.compare_digest(given, one) for one in known)


def _webhook(token: str) -> Webhook | None:
    """None for a key that is a bearer token alone."""
    if not token.startswith(PREFIX):
        return None
    try:
        return Webhook(base64.b64decode(token.removeprefix(PREFIX), validate=True))
    except binascii.Error as error:
        raise ValueError(f"a key that starts with {PREFIX} goes on in base64") from error
