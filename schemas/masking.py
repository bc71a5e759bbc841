"""What must never be read by anybody is taken out of a text here, and only here.

Two things are masked: secrets that this process has been given (`learn`), in whatever form they come back, and what has the
shape of a secret: credentials in URLs, bearer tokens, values of `password=`. Whoever writes text that people or
machines read (an event, an error, a log line, a dead letter's detail) passes it through `masked`.
"""

from __future__ import annotations

import re

MASK = "***"

_SHAPES = (
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s:/@]{0,256}:)[^\s]{1,1024}(@)"), rf"\1{MASK}\2"),
    (re.compile(r"(?i)\b(bearer|basic)(\s{1,8})[A-Za-z0-9._~+/=-]{6,4096}"), rf"\1\2{MASK}"),
    (
        re.compile(
            r"(?i)\b((?:[a-z0-9]{1,32}[_-]){0,4}(?:password|passwd|pwd|secret|token|api_?key))(\s{0,4}[=:]\s{0,4})[^\s&;,]{1,1024}"
        ),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"\b(whsec_)[A-Za-z0-9+/=_-]{1,1024}"), rf"\1{MASK}"),
)
_known: set[str] = set()


def learn(secret: str) -> None:
    """From now on `masked` takes this secret out of every text of this process."""
    if secret:
        _known.add(secret)


def masked(text: str) -> str:
    """The text without the secrets that are known and without what has the shape of one."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for shape, put in _SHAPES:
        text = shape.sub(put, text)
    return text
