"""Whether a route can work: its url, its key, and whether its receiver may stand inside. Needs no network.

A webhook's url is chosen by whoever writes the estate, and often pasted from elsewhere; the sink stands inside, where metadata
services and databases trust their neighbours. So an address that is not of the public internet is refused unless
the route says `allow_private: true`. What OTLP is sent to is the operator's own setting and has no such rule: a collector
next door is the usual case. Source: Standard Webhooks 1.0, "Server-side request forgery" and "Signature scheme".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from itertools import pairwise

from schemas import endpoints
from schemas.endpoints import Endpoint
from schemas.estate import Estate, Reference, Route
from schemas.masking import learn
from sinks.context import Resolve

KEY_BYTES_MIN = 24
DIFFERENT_BYTES_MIN = 10
"""Of 24 random bytes at least 16 differ; of a word, its repetition and a row of numbers fewer do."""
NEW_KEY = "make one with: echo whsec_$(openssl rand -base64 32)"


def checked_url(route: Route, url: str) -> Endpoint:
    """Where the route leads. Raises ValueError naming the route, never the url, which often is a password."""
    try:
        found = endpoints.read(url, ("https", "http"))
    except ValueError as error:
        raise ValueError(f"route {route.name}: its url must be https://host/path; {error}") from None
    if found.has_credentials:
        raise ValueError(
            f"route {route.name}: its url holds a user or a password; receivers know us by the signature (secret:), or by a "
            "token in the path"
        )
    if not route.allow_private and (what := _inside(found)):
        raise ValueError(f"route {route.name}: its url leads to {what}; {remedy(route)}")
    return found


def remedy(route: Route) -> str:
    """What allows the route an address inside."""
    return f"if its receiver is one of yours, write allow_private: true at the route {route.name}"


def _inside(found: Endpoint) -> str:
    if endpoints.names_this_machine(found.host):
        return "this machine"
    return endpoints.inside(found.address) if found.address else ""


def checked_key(route: Route, secret: str) -> bytes | None:
    """The bytes of the key; None for a route without one. Raises ValueError naming the route, never the secret."""
    if not secret:
        return None
    encoded = secret.strip().removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"route {route.name}: its secret must be whsec_ and then base64; {NEW_KEY}") from None
    if weakness := _weakness(key):
        raise ValueError(f"route {route.name}: its secret {weakness}, so anybody may find it; {NEW_KEY}")
    return key


def _weakness(key: bytes) -> str:
    if len(key) < KEY_BYTES_MIN:
        return f"has {len(key)} bytes, fewer than {KEY_BYTES_MIN}"
    if any(key.startswith(key[length:]) for length in range(1, len(key) // 2 + 1)):
        return "repeats itself"
    if len(set(key)) < DIFFERENT_BYTES_MIN:
        return f"has only {len(set(key))} different bytes"
    if len({(after - before) % 256 for before, after in pairwise(key)}) == 1:
        return "is a row of numbers"
    return ""


def faults(estate: Estate, resolve: Resolve) -> Iterator[str]:
    """What keeps routes from working, a sentence each. A reference that leads nowhere on this machine (ValueError) is left out."""
    for route in estate.routes:
        for value, check in ((route.url, checked_url), (route.secret, checked_key)):
            try:
                found = resolve(value, f"route {route.name}")
            except ValueError:
                continue
            try:
                check(route, found)
            except ValueError as error:
                yield str(error)


def resolved(route: Route, resolve: Resolve) -> tuple[str, str]:
    """The route's url and secret, kept out of every text from now on. Raises ValueError naming the route."""
    url = resolve(route.url, f"url of route {route.name}")
    secret = resolve(route.secret, f"secret of route {route.name}")
    learn(secret)
    if isinstance(route.url, Reference):
        learn(url)
    return url, secret
