"""Secrets that are planted, and the search for them in whatever came out.

A canary is two rare words with odd characters between them. Either word is found as it is, percent-encoded, in base64 at each
of its three offsets, in hex, and turned round in case: a mask that leaves half of a secret is no mask.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import quote, unquote

ODD = ("/", "#", "?", "@", "%", " ", "ü", ":", "'", '"', "\\", "&", "=", "+", "[", "%2F", "/12@h:", "$x")
LETTERS = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def _word(text: str) -> str:
    digest = sha256(text.encode()).digest()
    return "Zq" + "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:8])


@dataclass(frozen=True)
class Canary:
    """One secret and where it was planted."""

    place: str
    odd: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """The rare words that it is made of."""
        return _word(f"{self.place} first"), _word(f"{self.place} second")

    def __str__(self) -> str:
        return self.odd.join(self.words)

    @property
    def encoded(self) -> str:
        """As it stands in a URL that is written well."""
        return quote(str(self), safe="")


@dataclass
class Canaries:
    """All that were planted. Asking for one plants it."""

    planted: dict[str, Canary] = field(default_factory=dict)

    def at(self, place: str, odd: str | None = None) -> Canary:
        """The secret of a place; its odd characters are the next ones unless they are given."""
        if place not in self.planted:
            odd = ODD[len(self.planted) % len(ODD)] if odd is None else odd
            self.planted[place] = Canary(place, odd)
        return self.planted[place]

    def key(self, place: str) -> str:
        """A secret of the form of a receiver's or a route's key."""
        return "whsec_" + base64.b64encode(f"{self.at(place, '-')}-and-thirty-two-bytes"[:32].encode()).decode()

    def found(self, text: bytes) -> list[str]:
        """Places whose secret, or half of it, stands in what came out."""
        texts = list(_readings(text))
        return [
            f"{place}: …{_around(texts, word)}…"
            for place, one in self.planted.items()
            for word in one.words
            if any(form in reading for form in _forms(word) for reading in texts)
        ]


def _forms(word: str) -> Iterable[bytes]:
    raw = word.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.swapcase()
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw)
        yield whole[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]


def _around(texts: Iterable[bytes], word: str) -> str:
    for reading in texts:
        for form in _forms(word):
            if (at := reading.find(form)) >= 0:
                return reading[max(0, at - 200) : at + 60].decode(errors="replace")
    return ""


def _readings(text: bytes) -> Iterable[bytes]:
    """The bytes, without percent-encoding, and what stands in them as base64 or gzip."""
    yield text
    yield unquote(text.decode("latin-1"), "latin-1").encode("latin-1", "replace")
    if text[:2] == b"\x1f\x8b":
        yield gzip.decompress(text)
    for part in re.findall(rb'"payload":"([A-Za-z0-9+/=]{8,})"', text):
        yield base64.b64decode(part)
