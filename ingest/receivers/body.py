"""JSON that strangers send, read within bounds and without what must not be kept."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingest.receivers.refusals import Refused, shown, unprocessable
from schemas.masking import MASK, NAME_MAX, masked, masked_label, says_secret
from schemas.records import MAX_SERIES

MAX_DEPTH = 32  # levels of a body; our own records have four
MAX_DIGITS = 19  # of a whole number: 64 bits
LAYOUT = "series"  # the texts of scrapes: of them only the values of attributes are masked
BETWEEN = "\ue000"  # stands between texts that are masked together, and in none of them
MASKED_ALONE_MAX = 2_000  # texts that are masked one by one, where a secret seems to go over several

_PAIR = re.compile(r'(?<![A-Za-z0-9_.:])([A-Za-z_][A-Za-z0-9_.:]*+)="((?:[^"\\\n]|\\.)*+)"')
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str, content_type: str = "", *, mends: bool = False) -> Any:
    """The data; Refused when it is none. `content_type` is named when the body was said to be something else.

    NaN and Infinity are none. Whole numbers beyond 64 bits are read as floats. Halves of characters (`\\ud800`), which no
    database takes, are refused, or put right where `mends`. Of a key that stands twice the last counts. Secrets in texts are
    masked.
    """
    try:
        with _without_collecting():
            data = json.loads(text, parse_constant=_no_constant, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "Not readable", f"body: {error}; send JSON{_but_sent(content_type)}") from None
    _check_shape(data)
    return without_secrets(_whole_characters(data, mends=mends) if _HALF.search(text) else data)


def without_secrets(data: Any) -> Any:
    """The data with its texts masked: all of them in one go, because there may be many."""
    data = _without_named(data)
    texts = [text.replace(BETWEEN, "\ufffd") for text in _texts(data)]
    together = f"\n{BETWEEN}\n".join(texts)
    after = masked(together)
    if after == together:
        return data
    found = after.split(f"\n{BETWEEN}\n")
    if len(found) != len(texts):
        if len(texts) > MASKED_ALONE_MAX:
            raise Refused(
                422, "Not understood", "body: it holds what looks like a secret over several texts; take it out"
            )
        found = [masked(text) for text in texts]
    return _with_texts(data, iter(found))


def _without_named(data: Any) -> Any:
    """The data without the texts that are secret by the name that they stand under."""
    if isinstance(data, list):
        return [_without_named(one) for one in data] if any(isinstance(one, list | dict) for one in data) else data
    if not isinstance(data, dict):
        return data
    return {name: _named(name, one) for name, one in data.items()}


def _named(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return _without_named(value)
    if name == LAYOUT:
        return _PAIR.sub(lambda pair: f'{pair[1]}="{masked_label(pair[2], pair[1])}"', value)
    return MASK if value and says_secret(name[:NAME_MAX]) else value


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, list):
        for one in data:
            yield from _texts(one)
    elif isinstance(data, dict):
        for name, one in data.items():
            if name != LAYOUT:
                yield from _texts(one)


def _with_texts(data: Any, texts: Iterator[str]) -> Any:
    """The data with its texts, in the order of `_texts`, replaced."""
    if isinstance(data, str):
        return next(texts)
    if isinstance(data, list):
        return [_with_texts(one, texts) for one in data]
    if isinstance(data, dict):
        return {name: one if name == LAYOUT else _with_texts(one, texts) for name, one in data.items()}
    return data


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Without the garbage collector, which goes through the whole heap again and again while a body of many lists is read."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_shape(data: Any) -> None:
    """Refuse what is nested too deeply or has a list that is too long, level by level: nothing here recurses."""
    level, depth = [data], 0
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise Refused(400, "Not readable", f"body: it is nested more than {MAX_DEPTH} levels deep; send it flatter")
        longest = max(map(len, level))
        if longest > MAX_SERIES:
            raise Refused(422, "Not understood", f"body: a list has {longest} entries; at most {MAX_SERIES} are read")
        level = [one for node in level for one in (node.values() if isinstance(node, dict) else node)]


def _whole_characters(data: Any, *, mends: bool, where: str = "") -> Any:
    """The data, which is not deep, without halves of characters."""
    if isinstance(data, str):
        try:
            data.encode()
        except UnicodeEncodeError:
            if not mends:
                right = "it holds half a character, as \\ud800; send both halves or none"
                raise unprocessable(where or "body", data.encode(errors="replace").decode(), right) from None
            return data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return data
    if isinstance(data, list):
        return [
            _whole_characters(one, mends=mends, where=f"{where}.{n}" if where else str(n)) for n, one in enumerate(data)
        ]
    if isinstance(data, dict):
        return {
            _whole_characters(name, mends=mends, where=where): _whole_characters(
                one, mends=mends, where=f"{where}.{name}" if where else name
            )
            for name, one in data.items()
        }
    return data


def _but_sent(sent: str) -> str:
    """What the body was said to be, where that is not JSON."""
    return f" with content-type application/json, not {shown(sent)}" if sent and "json" not in sent else ""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _whole(text: str) -> int | float:
    if len(text) <= MAX_DIGITS and -(2**63) <= (number := int(text)) < 2**63:
        return number
    return float(text) if len(text) < 400 else math.copysign(math.inf, -1 if text.startswith("-") else 1)
