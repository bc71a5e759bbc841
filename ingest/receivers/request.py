"""What came in: headers and a body, read as text or as JSON within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingest.receivers.body import read_json
from ingest.receivers.refusals import Refused


@dataclass(frozen=True, slots=True)
class Request:
    """What came in. Names of headers are lower case."""

    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """The body; Refused when it is no UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Refused(400, "Not readable", f"body: byte {error.start} is no UTF-8; send JSON in UTF-8") from None

    def json(self, text: str | None = None, *, mends: bool = False) -> Any:
        """The body as JSON, within bounds; Refused when it is none.

        NaN and Infinity are none. Whole numbers beyond 64 bits are read as floats. Halves of characters (`\\ud800`), which no
        database takes, are refused, or put right where `mends`. Of a key that stands twice the last counts.
        """
        return read_json(self.text() if text is None else text, self.headers.get("content-type", ""), mends=mends)
