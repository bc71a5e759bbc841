"""Texts of others on their way to a terminal: without secrets, without what a terminal obeys.

A summary, a log line or a name may hold escape sequences that clear a screen or write to a clipboard, and characters that
turn the direction of writing, so that one reads what is not there. Whoever prints text passes it through here.
"""

from __future__ import annotations

import re

from schemas.masking import masked

PUT = "\N{REPLACEMENT CHARACTER}"

_OBEYED = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, among them ESC, CR and the C1 set; tab and line feed stay
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff"  # direction, invisible, other line ends
    "\U000e0000-\U000e007f"  # tags: a text that nobody sees
    "\ud800-\udfff"  # halves of a pair: no terminal's encoding has them
    "]"
)


def shown(text: str) -> str:
    """A text of several lines, fit for a terminal."""
    return _OBEYED.sub(PUT, masked(text.replace("\r\n", "\n")))


def clean(text: str) -> str:
    """The same in one line: line feeds are shown as blanks."""
    return shown(text).replace("\n", " ").replace("\t", " ")
