"""Contracts of the governed topics, derived from the models: JSON Schema, AsyncAPI 3, ODCS 3.1.

Everything here is a pure function of the catalogue; `generate` writes it to files. `breaking_changes` compares two JSON
Schemas of one type and says what would break a consumer or refuse yesterday's records.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from schemas.codec import RECORD_TYPES, data_schema
from schemas.records import DeadLetter, Heartbeat
from schemas.topics import INPUTS, PARTITIONS, TOPICS, Topic

Json = dict[str, Any]

HEADERS: dict[str, str] = {
    "ce_specversion": "CloudEvents version, 1.0.",
    "ce_id": "Unique within the source; the sequence as text.",
    "ce_source": "Who published it; together with the sequence it names the record for good.",
    "ce_type": "Type and version of the body.",
    "ce_time": "When it happened, RFC 3339.",
    "ce_recordedtime": "When it was observed, RFC 3339; the Kafka timestamp.",
    "ce_sequence": "Grows with every record of the source; not above the last one seen means delivered before.",
    "ce_partitionkey": "The Kafka key: the cell.",
    "ce_dataschema": "URN of the body's JSON Schema.",
    "content-type": "application/json.",
    "traceparent": "W3C trace context, where there is one.",
}

MODELS: tuple[type[BaseModel], ...] = (*RECORD_TYPES, Heartbeat, DeadLetter)


def json_schema(model: type[BaseModel]) -> Json:
    """JSON Schema 2020-12 of a record's body."""
    event_type: str = getattr(model, "type")  # noqa: B009 (a ClassVar that BaseModel does not declare)
    schema = model.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": data_schema(event_type), **schema}


def file_name(model: type[BaseModel]) -> str:
    """Base name of a type's schema file: its type without the company's prefix."""
    return str(getattr(model, "type")).removeprefix("com.pilothouse.")  # noqa: B009


def asyncapi() -> Json:
    """One AsyncAPI 3 document of all governed topics."""
    governed = [topic for topic in TOPICS if topic.model]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Pilothouse topics",
            "version": "1.0.0",
            "description": "CloudEvents 1.0 in Kafka's binary mode, JSON bodies. The cell is the key of every topic.",
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in governed},
        "operations": {f"receive.{topic.name}": _operation(topic) for topic in governed},
        "components": {"messages": {file_name(model): _message(model) for model in MODELS}},
    }


def odcs(topic: Topic) -> Json:
    """The Open Data Contract (ODCS 3.1) of a topic."""
    assert topic.model is not None
    schema = json_schema(topic.model)
    return {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": f"urn:pilothouse:contract:{topic.name}",
        "name": topic.name,
        "version": "1.0.0",
        "status": "active",
        "dataProduct": "pilothouse",
        "domain": topic.owner,
        "description": {
            "purpose": topic.description,
            "usage": "Read it with any Kafka client; the key is " + topic.key + ".",
        },
        "servers": [{"server": "bus", "type": "kafka", "host": "${PILOTHOUSE_KAFKA}", "format": "json"}],
        "schema": [
            {
                "name": topic.name,
                "physicalName": topic.name,
                "physicalType": "topic",
                "logicalType": "object",
                "description": topic.description,
                "properties": [_property(topic, schema, name, field) for name, field in schema["properties"].items()],
                "quality": [
                    {
                        "type": "text",
                        "description": "A record that does not validate goes to dead-letters.v1 with its bytes.",
                    },
                    {
                        "type": "text",
                        "description": "Sources' sequences only grow; a repeated one is a second delivery.",
                    },
                ],
            }
        ],
        "slaProperties": [
            {"property": "retention", "value": topic.retention_days, "unit": "d"},
            {"property": "latency", "value": 5, "unit": "s", "element": f"{topic.name}.time_ms"},
        ],
        "team": {"name": topic.owner},
        "customProperties": [
            {"property": "partitions", "value": PARTITIONS},
            {"property": "key", "value": topic.key},
            {"property": "classification", "value": topic.classification.value},
        ],
    }


def breaking_changes(old: Json, new: Json) -> list[str]:
    """What in `new` would refuse a record that `old` accepts, or take a field from its readers; empty when nothing."""
    return list(_breaks("", old, new, old.get("$defs", {}), new.get("$defs", {})))


def _breaks(path: str, old: Json, new: Json, old_defs: Json, new_defs: Json) -> Iterable[str]:
    old, new = _resolved(old, old_defs), _resolved(new, new_defs)
    where = path or "record"
    for name in old.get("properties", {}).keys() - new.get("properties", {}).keys():
        yield f"{where}: field {name} is gone"
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{where}: field {name} is required now"
    yield from _narrower(where, old, new)
    for name, field in old.get("properties", {}).items():
        if name in new.get("properties", {}):
            yield from _breaks(f"{path}.{name}".lstrip("."), field, new["properties"][name], old_defs, new_defs)
    if isinstance(old.get("items"), dict) and isinstance(new.get("items"), dict):
        yield from _breaks(f"{path}[]", old["items"], new["items"], old_defs, new_defs)


def _narrower(where: str, old: Json, new: Json) -> Iterable[str]:
    if old.get("type") != new.get("type"):
        yield f"{where}: type {old.get('type')} became {new.get('type')}"
    for gone in set(old.get("enum") or ()) - set(new.get("enum") or old.get("enum") or ()):
        yield f"{where}: value {gone!r} is no longer allowed"
    old_choices, new_choices = _choices(old), _choices(new)
    for gone in old_choices - new_choices if new_choices else ():
        yield f"{where}: {gone} is no longer allowed"
    for bound in ("maxLength", "maxItems", "maximum", "exclusiveMaximum"):
        if new.get(bound, float("inf")) < old.get(bound, float("inf")):
            yield f"{where}: {bound} fell from {old.get(bound, 'none')} to {new[bound]}"
    for bound in ("minLength", "minItems", "minimum", "exclusiveMinimum"):
        if new.get(bound, float("-inf")) > old.get(bound, float("-inf")):
            yield f"{where}: {bound} rose from {old.get(bound, 'none')} to {new[bound]}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{where}: pattern {old.get('pattern', 'none')} became {new['pattern']}"


def _choices(schema: Json) -> set[str]:
    return {str(choice.get("type") or choice.get("$ref")) for choice in schema.get("anyOf", ())}


def _resolved(schema: Json, definitions: Json) -> Json:
    reference = schema.get("$ref", "")
    return definitions.get(reference.rpartition("/")[2], {}) if reference else schema


def _channel(topic: Topic) -> Json:
    assert topic.model is not None
    models: list[type[BaseModel]] = [topic.model, *([Heartbeat] if topic in INPUTS else [])]
    names = [file_name(model) for model in models]
    return {
        "address": topic.name,
        "description": topic.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": PARTITIONS,
                "topicConfiguration": topic.config(),
                "bindingVersion": "0.5.0",
            }
        },
        "x-owner": topic.owner,
        "x-classification": topic.classification.value,
        "x-key": topic.key,
    }


def _operation(topic: Topic) -> Json:
    return {"action": "receive", "channel": {"$ref": "#/channels/" + topic.name.replace("/", "~1")}}


def _message(model: type[BaseModel]) -> Json:
    headers = {name: {"type": "string", "description": text} for name, text in HEADERS.items()}
    return {
        "name": file_name(model),
        "title": (model.__doc__ or model.__name__).splitlines()[0],
        "contentType": "application/json",
        "headers": {"type": "object", "properties": headers},
        "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": json_schema(model)},
    }


def _property(topic: Topic, schema: Json, name: str, field: Json) -> Json:
    resolved = _resolved(field, schema.get("$defs", {}))
    kind = resolved.get("type") or "string"
    logical = {"integer": "integer", "number": "number", "boolean": "boolean", "array": "array", "object": "object"}
    return {
        "name": name,
        "logicalType": logical.get(kind, "string"),
        "physicalType": kind,
        "required": name in schema.get("required", ()),
        "description": field.get("description") or resolved.get("description") or "",
        "classification": topic.classification.value,
    }
