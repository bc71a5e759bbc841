"""What people write, as YAML: models that are frozen, refuse unknown keys, and take an empty optional key as left out."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, model_validator


class Written(BaseModel):
    """`key:` with nothing behind it means the default, as if the line were not there. A key that is required needs a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_left_out(cls, data: Any) -> Any:
        if not isinstance(data, dict) or None not in data.values():
            return data
        optional = {
            key
            for name, field in cls.model_fields.items()
            if not field.is_required()
            for key in (name, field.alias, field.validation_alias)
        }
        return {key: value for key, value in data.items() if value is not None or key not in optional}


def known_zone(name: str) -> str:
    """The name of an IANA time zone. Raises ValueError for what is none, such as `Europe`, a folder of the database."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone of the IANA database; write one such as Europe/Berlin") from None
    return name
