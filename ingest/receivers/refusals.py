"""The answers that a sender can do something about: each names the field, its value and what would be right."""

from __future__ import annotations

from typing import Any

SHOWN = 100  # characters of a value in an answer


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
    shown = str(value)[:SHOWN]
    return Refused(403, "Not allowed", f"{field_name}: {shown!r} {right}", field=field_name, value=shown)


def unprocessable(field_name: str, value: object, right: str, **more: Any) -> Refused:
    """It was read, but a field has no sense."""
    shown = str(value)[:SHOWN]
    detail = f"{field_name}: {shown!r} is wrong; {right}"
    return Refused(422, "Not understood", detail, field=field_name, value=shown, expected=right, **more)
