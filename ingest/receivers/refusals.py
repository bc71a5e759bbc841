"""The answers that a sender can do something about: each names the field, its value and what would be right.

Values that a sender sent are masked where they enter an answer; our own sentences are not, for they speak of keys and headers.
"""

from __future__ import annotations

from typing import Any

from schemas.masking import masked

SHOWN = 100  # characters of a value in an answer
LOOKED_AT = 2_000  # characters of it in which secrets are looked for


def shown(value: object) -> str:
    """A value as an answer or a log shows it: its beginning, without secrets."""
    return masked(str(value)[:LOOKED_AT])[:SHOWN]


class Refused(Exception):  # noqa: N818 (an answer, not a mistake of ours)
    """A request that is answered with an error. `detail` names the field, the value and what would be right."""

    def __init__(self, status: int, title: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.more = status, title, detail, more


def unauthorized(detail: str) -> Refused:
    """Nobody proved who sent it."""
    return Refused(401, "Not authenticated", detail)


def forbidden(field_name: str, value: object, right: str) -> Refused:
    """The sender is known, and may not say this."""
    said = shown(value)
    return Refused(403, "Not allowed", f"{field_name}: {said!r} {right}", field=field_name, value=said)


def unprocessable(field_name: str, value: object, right: str, **more: Any) -> Refused:
    """It was read, but a field has no sense."""
    said = shown(value)
    detail = f"{field_name}: {said!r} is wrong; {right}"
    return Refused(422, "Not understood", detail, field=field_name, value=said, expected=right, **more)
