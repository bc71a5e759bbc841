"""The text of a log line as it may leave the host: no values of statements, no rows, no addresses and logins if masked."""

from __future__ import annotations

import ast
import re

from ingest.collectors.odoo_log_lines import Entry
from ingest.collectors.sql_text import normalise

MAX_BODY = 16_384

_EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
_LOGIN = re.compile(r"(?<=login:).*(?= from )|(?<=\(user ').*(?='\) on )|(?<=> for ').*(?=' \(#\d+\) from )")
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*)(?::|$)")


def body(entry: Entry, *, mask: bool) -> str:
    """The message as it may be shipped: statements without their values, and masked without addresses and logins."""
    text = _without_values(entry.message) if entry.message.startswith("bad query: ") else entry.message
    # Under DETAIL PostgreSQL quotes the row that it refused; nothing of use follows it.
    text = text.partition("\nDETAIL: ")[0]
    if mask:
        text = _EMAIL.sub("<address>", text)
        if entry.logger.startswith("odoo.addons.base.models.res_users"):
            text = _LOGIN.sub("<login>", text)
    return text[:MAX_BODY]


def exception_type(message: str) -> str | None:
    """The type of the exception whose traceback the message ends with."""
    if "Traceback (most recent call last)" not in message:
        return None
    # Below the frames, which are indented, the exception stands at the margin; its own text may follow over lines.
    lines = message.rpartition("Traceback (most recent call last)")[2].split("\n")[1:]
    last = next((line for line in lines if line and not line[0].isspace()), "")
    found = _EXCEPTION.match(last)
    return found[1] if found else None


def _without_values(message: str) -> str:
    """A refused statement without its literals, and the error's first line."""
    statement, _, error = message.removeprefix("bad query: ").partition("\nERROR: ")
    first = error.split("\n", 1)[0].strip()
    return f"bad query: {normalise(_text_of(statement))}" + (f"\nERROR: {first}" if first else "")


def _text_of(statement: str) -> str:
    """The statement itself: 18 and 19 print Python's representation of its bytes."""
    if not statement.startswith(("b'", 'b"')):
        return statement
    try:
        return str(ast.literal_eval(statement.strip()).decode(errors="replace"))
    except (ValueError, SyntaxError, AttributeError):
        return statement[2:]
