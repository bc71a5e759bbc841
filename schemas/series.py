"""Series identities: OpenMetrics `name{attribute="value"}`, many of them as one string.

A scrape carries the identities of its columns joined by newlines and sorted, so that a reader who has seen the
layout pays one dictionary look-up. Names may hold dots, as OpenTelemetry's do; values are escaped as in OpenMetrics
(backslash, quote, newline), so an identity never holds a raw newline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

# Possessive, and begun only where a name begins: the time grows with the text and no faster.
_NAME = r"[A-Za-z_][A-Za-z0-9_.:]*+"
_PAIR = rf'({_NAME})="((?:[^"\\\n]|\\.)*+)"'
_SERIES = re.compile(rf"({_NAME})(?:\{{((?:{_PAIR},?)*)\}})?")
_PAIRS = re.compile(rf"(?<![A-Za-z0-9_.:]){_PAIR}")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_ESCAPED = re.compile(r'[\\"\n]')
_UNESCAPE = re.compile(r"\\(.)")


class Series(NamedTuple):
    """One column of a scrape: the metric's name and its attributes."""

    name: str
    attributes: Mapping[str, str]

    @property
    def tenant(self) -> str | None:
        """The tenant that the column belongs to, None for what a cell shares."""
        return self.attributes.get("tenant.id")


def identity(name: str, attributes: Mapping[str, str] | None = None) -> str:
    """`name{a="1",b="2"}` with the attributes sorted: equal series have equal identities."""
    if not attributes:
        return name
    pairs = ",".join(f'{key}="{_escape(value)}"' for key, value in sorted(attributes.items()))
    return f"{name}{{{pairs}}}"


@lru_cache(maxsize=200_000)
def parse(text: str) -> Series:
    """The series behind an identity; the same object for the same identity, so its attributes are not to be changed.

    Raises ValueError naming the text and what would be right.
    """
    match = _SERIES.fullmatch(text)
    if match is None:
        raise ValueError(f'series {text!r} is not name{{attribute="value",...}}')
    return Series(match[1], {key: _unescape(value) for key, value in _PAIRS.findall(match[2] or "")})


class Layout(NamedTuple):
    """The identities of a scrape as one string, and how many they are."""

    text: str
    width: int


@lru_cache(maxsize=2_000)
def layout(text: str) -> Layout:
    """The layout behind a text. Equal texts give the same string: it is kept once and hashed once."""
    return Layout(text, text.count("\n") + 1 if text else 0)


def join(identities: Iterable[str]) -> str:
    """A layout: identities in the order of the values, which is sorted."""
    return "\n".join(identities)


def split(layout: str) -> list[str]:
    """The identities of a layout, in the order of the values."""
    return layout.split("\n") if layout else []


def _escape(value: str) -> str:
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], value)


def _unescape(value: str) -> str:
    return _UNESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], value)
