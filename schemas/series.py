"""Series identities: OpenMetrics `name{attribute="value"}`, many of them as one string.

A scrape carries the identities of its columns joined by newlines and sorted, so that a reader who has seen the
layout pays one dictionary look-up. Names may hold dots, as OpenTelemetry's do; values are escaped as in OpenMetrics
(backslash, quote, newline), so an identity never holds a raw newline.

What others send is looked at once for each layout: `layout` says which columns are no series, and why, so that readers of
records can leave those out and need not look again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from sys import getsizeof
from typing import NamedTuple

from schemas.caches import ENTRY_BYTES, cached

SERIES_MAX = 20_000  # columns of one layout; a larger resource is scraped in parts
NAME_MAX = 255  # characters of a metric's or an attribute's name
VALUE_MAX = 1_024  # characters of an attribute's value, as OpenTelemetry's SDKs are often told to cut
IDENTITY_MAX = 4_096  # characters of a whole identity
SHORT = 64  # characters to which values are cut where they are too long together
SERIES_BYTES, LAYOUTS_BYTES = 64 * 2**20, 32 * 2**20  # of what is kept parsed

# Possessive, and begun only where a name begins: the time grows with the text and no faster.
_NAME = r"[A-Za-z_][A-Za-z0-9_.:]*+"
_PAIR = rf'({_NAME})="((?:[^"\\\n]|\\.)*+)"'
_SERIES = re.compile(rf"({_NAME})(?:\{{((?:{_PAIR},?)*)\}})?")
_PAIRS = re.compile(rf"(?<![A-Za-z0-9_.:]){_PAIR}")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_ESCAPED = re.compile(r'[\\"\n]')
_UNESCAPE = re.compile(r"\\(.)")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Series(NamedTuple):
    """One column of a scrape: the metric's name and its attributes."""

    name: str
    attributes: Mapping[str, str]

    @property
    def tenant(self) -> str | None:
        """The tenant that the column belongs to, None for what a cell shares."""
        return self.attributes.get("tenant.id")


def identity(name: str, attributes: Mapping[str, str] | None = None) -> str:
    """`name{a="1",b="2"}` with the attributes sorted: equal series have equal identities.

    Values that no record may hold are made such: what is too long is cut and told apart by a digest.
    """
    if not attributes:
        return name
    pairs = ",".join(f'{key}="{_escape(value)}"' for key, value in sorted(attributes.items()))
    if len(name) + len(pairs) + 2 > IDENTITY_MAX:
        pairs = ",".join(f'{key}="{_escape(_cut(value, SHORT))}"' for key, value in sorted(attributes.items()))
    return f"{name}{{{pairs}}}"


def _weight_of_series(text: str, series: Series) -> int:
    return 3 * getsizeof(text) + 2 * ENTRY_BYTES + 100 * len(series.attributes)


@cached("cache.series", SERIES_BYTES, _weight_of_series)
def parse(text: str) -> Series:
    """The series behind an identity; the same object for the same identity, so its attributes are not to be changed.

    Raises ValueError naming the text and what would be right.
    """
    match = _SERIES.fullmatch(text)
    if match is None:
        raise ValueError(f'series {text!r} is not name{{attribute="value",...}}')
    return Series(match[1], {key: _unescape(value) for key, value in _PAIRS.findall(match[2] or "")})


class Fault(NamedTuple):
    """A column of a layout that is no series, and why."""

    place: int
    why: str


class Layout(NamedTuple):
    """The identities of a scrape as one string, how many they are, and what is wrong with it.

    `kept` are the places of the columns that are series, in the order of a layout; None when that is all of them as they stand.
    """

    text: str
    width: int
    faults: tuple[Fault, ...] = ()
    kept: tuple[int, ...] | None = None


def _weight_of_layout(text: str, known: Layout) -> int:
    return getsizeof(text) + ENTRY_BYTES + 50 * len(known.kept or ()) + sum(len(fault.why) for fault in known.faults)


@cached("cache.layouts", LAYOUTS_BYTES, _weight_of_layout)
def layout(text: str) -> Layout:
    """The layout behind a text. Equal texts give the same string: it is kept once and hashed once.

    A layout of more than `SERIES_MAX` columns is not looked at: no record holds one.
    """
    width = text.count("\n") + 1 if text else 0
    if not 0 < width <= SERIES_MAX:
        return Layout(text, width)
    identities = text.split("\n")
    faults = tuple(_faults(identities))
    bad = {fault.place for fault in faults}
    good = [place for place in range(width) if place not in bad]
    ordered = sorted(good, key=identities.__getitem__)
    return Layout(text, width, faults, None if not bad and ordered == good else tuple(ordered))


def _faults(identities: list[str]) -> Iterable[Fault]:
    seen: set[str] = set()
    for place, one in enumerate(identities):
        why = f"series {one!r} stands there twice" if one in seen else fault(one)
        if why:
            yield Fault(place, why)
        seen.add(one)


def fault(text: str) -> str | None:
    """Why a text is not the identity of a series that records may hold; None when it is."""
    if len(text) > IDENTITY_MAX:
        return f"series {text[:80]!r}... has {len(text)} characters; at most {IDENTITY_MAX} are kept"
    match = _SERIES.fullmatch(text)
    if match is None:
        return f'series {text[:200]!r} is not name{{attribute="value",...}}'
    if _SURROGATE.search(text):
        return f"series {text[:200]!r} holds half of a surrogate pair, which is no text"
    pairs = _PAIRS.findall(match[2]) if match[2] else []
    names = [match[1], *(name for name, _ in pairs)]
    if len({*names[1:]}) < len(pairs):
        return f"series {text[:200]!r} has an attribute twice"
    if max(map(len, names)) > NAME_MAX:
        return f"series {text[:80]!r}... has a name of {max(map(len, names))} characters; at most {NAME_MAX} are kept"
    return None


def join(identities: Iterable[str]) -> str:
    """A layout: identities in the order of the values, which is sorted."""
    return "\n".join(identities)


def split(layout: str) -> list[str]:
    """The identities of a layout, in the order of the values."""
    return layout.split("\n") if layout else []


def _escape(value: str) -> str:
    if len(value) > VALUE_MAX or not value.isascii():
        value = _cut(value.encode(errors="replace").decode(), VALUE_MAX)
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], value)


def _cut(value: str, most: int) -> str:
    if len(value) <= most:
        return value
    digest = hashlib.blake2b(value.encode(errors="replace"), digest_size=8).hexdigest()
    return f"{value[: most - len(digest) - 3]}...{digest}"


def _unescape(value: str) -> str:
    return _UNESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], value)
