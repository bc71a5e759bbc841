"""Bodies that are sent compressed, inflated no further than they may be.

A gzip body of 1 GB is 1 MB on the wire: what comes out is bounded while it comes out, not afterwards.
Source: RFC 9110, content codings; `deflate` is zlib's format, or raw by senders that took the word literally.
"""

from __future__ import annotations

import zlib

from ingest.receivers.refusals import Refused, shown

CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
RAW = -15
MEMBERS_MAX = 32  # of a gzip body that was written in pieces


def inflated(body: bytes, coding: str, most: int) -> bytes:
    """The body as it was before it was encoded. Raises Refused: 413 beyond `most` bytes, 415 for another coding, 400 for garbage."""
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in CODINGS:
        raise Refused(
            415, "Not readable", f"content-encoding: {shown(coding)!r} is not read; send gzip, deflate or identity"
        )
    window = CODINGS[name]
    try:
        return _inflated(body, window, most)
    except zlib.error as error:
        if window == CODINGS["deflate"]:
            try:
                return _inflated(body, RAW, most)
            except zlib.error:
                pass
        raise Refused(400, "Not readable", f"body: it is no {name} ({error}); send it whole, or as it is") from None


def _inflated(body: bytes, window: int, most: int) -> bytes:
    found, rest = b"", body
    for _ in range(MEMBERS_MAX):
        stream = zlib.decompressobj(window)
        found += stream.decompress(rest, most + 1 - len(found))
        if len(found) > most:
            raise Refused(
                413, "Too large", f"the body is larger than {most} bytes when it is inflated; send it in parts"
            )
        if not stream.eof:
            raise zlib.error("it ends early")
        rest = stream.unused_data
        if not rest or window != CODINGS["gzip"]:
            return found
    raise zlib.error(f"it has more than {MEMBERS_MAX} parts")
