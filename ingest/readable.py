"""Texts of other systems as every reader can hold them.

Names of mounts, devices, databases and commands are bytes, and nobody promises that they are UTF-8. Python passes the
bytes of the operating system on as lone surrogates, which no encoder takes, and PostgreSQL stores no U+0000.
"""

from __future__ import annotations

import re
from zlib import crc32

MAX_VALUE = 255
MAX_BODY = 16_000
_ILL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_ILL_IN_NAMES = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def readable(value: object, longest: int = MAX_BODY) -> str:
    """The value as text: bytes that are no UTF-8 and control characters as `\\\\xNN`, at most `longest` characters."""
    return _cut(_ILL.sub(_escaped, _text(value)), longest)


def name_of(value: object) -> str:
    """The same on one line and short, as the value of an attribute of a series."""
    return _cut(_ILL_IN_NAMES.sub(_escaped, _text(value)), MAX_VALUE)


def on_one_line(text: str) -> str:
    """An identity without what would break a layout or an encoder; the same text where nothing would."""
    return _ILL_IN_NAMES.sub(_escaped, text) if _ILL_IN_NAMES.search(text) else text


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else str(value)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    # The operating system's byte 0xNN arrives as U+DCNN.
    if code < 0x80 or 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}"


def _cut(text: str, longest: int) -> str:
    """Two texts that differ only beyond the bound stay two."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 9]}…{crc32(text.encode()):08x}"
