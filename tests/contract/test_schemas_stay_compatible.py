"""Yesterday's records are read today, and no schema of v1 becomes narrower."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from schemas.contracts import MODELS, breaking_changes, file_name, json_schema

GOLDEN = Path(__file__).parents[1] / "golden"
every_model = pytest.mark.parametrize("model", MODELS, ids=file_name)


@every_model
def test_a_record_of_v1_is_read_and_written_back_unchanged(model: type[BaseModel]) -> None:
    text = (GOLDEN / "records/v1" / f"{file_name(model)}.json").read_text()
    record = model.model_validate_json(text)
    assert _holds(json.loads(record.model_dump_json()), json.loads(text))


def _holds(written: Any, old: Any) -> bool:
    """Whether everything that stood there stands there still; fields that have come since, at any depth, may be more."""
    if isinstance(old, dict):
        return isinstance(written, dict) and all(name in written and _holds(written[name], old[name]) for name in old)
    if isinstance(old, list):
        return len(written) == len(old) and all(map(_holds, written, old))
    return bool(written == old)


@every_model
def test_a_schema_of_v1_refuses_nothing_that_it_accepted(model: type[BaseModel]) -> None:
    old = json.loads((GOLDEN / "schemas/v1" / f"{file_name(model)}.json").read_text())
    assert breaking_changes(old, json_schema(model)) == []


def _without_a_field(schema: Any) -> None:
    schema["properties"].pop("time_ms")


def _with_a_new_required_field(schema: Any) -> None:
    schema["required"].append("warehouse")


def _with_another_type(schema: Any) -> None:
    schema["properties"]["cell"]["type"] = "integer"


def _with_fewer_values(schema: Any) -> None:
    schema["$defs"]["ChangeKind"]["enum"].remove("secret")


def _with_a_shorter_name(schema: Any) -> None:
    schema["properties"]["service"]["maxLength"] = 10


@pytest.mark.parametrize(
    "breaks",
    [_without_a_field, _with_a_new_required_field, _with_another_type, _with_fewer_values, _with_a_shorter_name],
)
def test_a_breaking_change_is_named(breaks: Any) -> None:
    old = json.loads((GOLDEN / "schemas/v1/change.v1.json").read_text())
    new = copy.deepcopy(old)
    breaks(new)
    assert len(breaking_changes(old, new)) == 1


def test_a_new_optional_field_breaks_nothing() -> None:
    old = json.loads((GOLDEN / "schemas/v1/change.v1.json").read_text())
    new = copy.deepcopy(old)
    new["properties"]["ticket"] = {"type": "string"}
    assert breaking_changes(old, new) == []
