"""Secrets that stand where they must not: in an estate, in the environment, in arguments, in what a program logs or raises.

Every mistake is made with each of the odd characters that a password may hold. What a verb says then is read: its output, its
errors and the exception that it ended with.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import redis.exceptions
import yaml
from typer.testing import CliRunner

from ingest.collector import Target
from ingest.poll import Poll
from ingest.receivers.body import without_secrets
from ingest.spool import Spool
from pilothouse import cli, logs
from pilothouse.cli import app
from pilothouse.settings import from_env
from schemas.codec import Reason, Rejected, dead_letter, encode_dead_letter
from schemas.estate import Cell, Resource, Tenant
from schemas.masking import learn
from schemas.records import OperationsEvent
from tests.support.canaries import ODD, Canaries, Canary

CELL = "{name: eu1, tenants: [{name: acme}]"
SYSTEMS = {
    "postgresql": "postgresql://u:{}@127.0.0.1:1/acme",
    "odoo": "postgresql://u:{}@127.0.0.1:1/acme",
    "redis": "redis://u:{}@127.0.0.1:1/0",
    "odoo_health": "http://u:{}@127.0.0.1:1/web/health",
    "tls": "tls://u:{}@127.0.0.1:1",
}
ENVIRONMENT: dict[str, Callable[[Canary], dict[str, str]]] = {
    "a database": lambda one: {"PILOTHOUSE_DATABASE_URL": f"postgresql://u:{one}@127.0.0.1:1/x"},
    "a database of another kind": lambda one: {"PILOTHOUSE_DATABASE_URL": f"mysql://u:{one}@127.0.0.1:1/x"},
    "a database without a host": lambda one: {"PILOTHOUSE_DATABASE_URL": f"postgresql:u:{one}"},
    "a redis": lambda one: {"PILOTHOUSE_REDIS_URL": f"redis://:{one}@127.0.0.1:1/0"},
    "a redis of another kind": lambda one: {"PILOTHOUSE_REDIS_URL": f"valkey://:{one}@127.0.0.1:1/0"},
    "an endpoint": lambda one: {"PILOTHOUSE_OTLP_ENDPOINT": f"https://u:{one}@127.0.0.1:1"},
    "an endpoint of another kind": lambda one: {"PILOTHOUSE_OTLP_ENDPOINT": f"tcp://u:{one}@127.0.0.1:1"},
    "headers": lambda one: {"PILOTHOUSE_OTLP_HEADERS": f"Bearer {one}"},
    "a broker with a password": lambda one: {"PILOTHOUSE_KAFKA": f"b:1?sasl_password={one}"},
    "a broker as a url": lambda one: {"PILOTHOUSE_KAFKA": f"kafka://u:{one}@b:1"},
    "a broker and its user": lambda one: {"PILOTHOUSE_KAFKA": f"u:{one}@b:1"},
    "a broker and more": lambda one: {
        "PILOTHOUSE_KAFKA": "b:1?security_protocol=SASL&sasl_username=u&sasl_password_env=KP",
        "KP": str(one),
    },
    "a prefix": lambda one: {"PILOTHOUSE_TOPIC_PREFIX": f"token={one}"},
    "partitions": lambda one: {"PILOTHOUSE_PARTITIONS": f"password={one}"},
    "steps": lambda one: {"PILOTHOUSE_STEPS": f"password={one}"},
}
ESTATES: dict[str, str] = {
    "a secret as a value": "routes: [{{name: r, url: 'https://x.example/y', secret: {q}}}]",
    "a key as a value": "receivers: [{{name: events, keys: [{q}]}}]",
    "keys as a text": "receivers: [{{name: events, keys: {q}}}]",
    "a password in a url": "cells: [{cell}, resources: [{{name: p, system: postgresql, url: {pg}}}]}}]",
    "a password in a query": "cells: [{cell}, resources: [{{name: p, system: postgresql, url: {query}}}]}}]",
    "a url as a cell": "cells: [{pg}]",
    "a password beside a url": "cells: [{cell}, resources: [{{name: p, system: postgresql, url: 'postgresql://h/d', password: {q}}}]}}]",
    "an option": "cells: [{cell}, resources: [{{name: p, system: redis, url: 'redis://h', options: {{password: {q}}}}}]}}]",
    "a route's url": "routes: [{{name: r, url: {hook}}}]",
    "a route's password": "routes: [{{name: r, url: {web}}}]",
    "an unfinished text": 'routes: [{{name: r, secret: "{raw}',
    "a part that is none": "password: {q}",
    "a variable's name": "routes: [{{name: r, url: {{env: {q}}}, secret: {{env: {pg}}}}}]",
    "a file's name": "routes: [{{name: r, url: {{file: {pg}}}}}]",
}


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


def said(*arguments: str, **environ: str) -> str:
    """What a verb says; an exception that leaves it is told by the guard, and is a mistake of ours all the same."""
    cleared = dict.fromkeys(("PILOTHOUSE_KAFKA", "PILOTHOUSE_DATABASE_URL", "PILOTHOUSE_REDIS_URL"), "")
    result = CliRunner().invoke(app, arguments, env={**cleared, "PILOTHOUSE_DATA": "/nonexistent/data", **environ})
    assert result.exception is None or isinstance(result.exception, SystemExit), type(result.exception)
    assert result.exit_code, "it is a mistake"
    return result.output


@pytest.mark.parametrize("what", ENVIRONMENT)
def test_a_mistake_in_the_environment_repeats_no_secret(what: str, canaries: Canaries) -> None:
    for odd in ODD:
        one = canaries.at(f"{what} with {odd}", odd)
        text = said("silence", "list", **{"PILOTHOUSE_KAFKA": "127.0.0.1:1", **ENVIRONMENT[what](one)})
        assert canaries.found(text.encode()) == [], text


@pytest.mark.parametrize("what", ESTATES)
def test_a_mistake_in_an_estate_repeats_no_secret(what: str, canaries: Canaries, tmp_path: Path) -> None:
    for odd in ODD:
        one = canaries.at(f"{what} with {odd}", odd)
        quoted = {
            "q": json.dumps(f"whsec_{one}"),
            "pg": json.dumps(f"postgresql://u:{one}@h/d"),
            "query": json.dumps(f"postgresql://h/d?password={one.encoded}"),
            "hook": json.dumps(f"https://hooks.slack.com/services/T0/B0/{one.encoded}"),
            "web": json.dumps(f"https://u:{one}@x.example/y"),
            "raw": f"whsec_{one}",
            "cell": CELL,
        }
        (tmp_path / "a.yaml").write_text(ESTATES[what].format(**quoted), encoding="utf-8")
        (tmp_path / "b.yaml").write_text("cells: [{name: eu2, tenants: [{name: acme}]}]", encoding="utf-8")
        for output in ("text", "json"):
            result = CliRunner().invoke(app, ["check", "-c", str(tmp_path), "-o", output])
            assert canaries.found(result.output.encode()) == [], result.output
            assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("place", ["env", "file"])
def test_a_url_that_cannot_be_read_is_not_repeated(system: str, place: str, canaries: Canaries, tmp_path: Path) -> None:
    for odd in ODD:
        one = canaries.at(f"{system} by {place} with {odd}", odd)
        (tmp_path / "url").write_text(SYSTEMS[system].format(one), encoding="utf-8")
        at = {"env": "U"} if place == "env" else {"file": str(tmp_path / "url")}
        resource = {"name": "r", "system": system, "tenant": "acme", "url": at}
        estate = {"cells": [{"name": "eu1", "tenants": [{"name": "acme"}], "resources": [resource]}]}
        folder = tmp_path / "estate"
        folder.mkdir(exist_ok=True)
        (folder / "a.yaml").write_text(yaml.safe_dump(estate), encoding="utf-8")
        result = CliRunner().invoke(app, ["check", "-c", str(folder)], env={"U": SYSTEMS[system].format(one)})
        assert canaries.found(result.output.encode()) == [], result.output


@pytest.fixture
def log_as_of_a_program() -> Iterator[None]:
    """A log that is set up as the programs do, and put back."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, logging.lastResort
    logs.configure()
    yield
    root.handlers[:], root.level, sys.excepthook, logging.lastResort = before
    logging.captureWarnings(False)


@pytest.mark.usefixtures("log_as_of_a_program")
def test_a_log_line_its_fields_and_its_traceback_hold_no_secret(
    monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log, root = logging.getLogger("ingest.anything"), logging.getLogger()
    root.handlers = [one for one in root.handlers if isinstance(one, logs._ToStandardError)]
    for number, kind in enumerate(
        (ValueError, asyncpg.PostgresError, redis.exceptions.AuthenticationError, OSError, KeyError)
    ):
        known, shaped = canaries.at(f"known {number}"), canaries.at(f"shaped {number}", "-")
        learn(str(known))
        log.warning(
            "said %s and %r",
            known,
            {"password": str(shaped)},
            extra={"reason": str(known), "url": f"redis://:{shaped}@h"},
        )
        try:
            try:
                raise kind(f"password={shaped} {known}")
            except kind as cause:
                raise RuntimeError(str(known), {"token": str(shaped)}) from cause
        except RuntimeError as error:
            log.exception("it failed")
            sys.excepthook(RuntimeError, error, error.__traceback__)
    log.error("too few %s %s", f"password={canaries.at('an argument', '-')}")
    logging.getLogger("a.library").warning(Broken(f"token={canaries.at('a broken message', '-')}"))
    text = written.getvalue()
    assert "it failed" in text
    assert "Traceback" in text
    assert canaries.found(text.encode()) == []


class Broken:
    """A message whose text cannot be made."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        raise ValueError(self.text)


def test_whatever_is_written_to_standard_error_is_masked(canaries: Canaries) -> None:
    raw = io.BytesIO()
    inner = io.TextIOWrapper(raw, "utf-8")
    errors = cli._Errors.around(inner)
    errors.write(f"a library says password={canaries.at('a library', '-')}\n")
    errors.flush()
    assert raw.getvalue() == b"a library says password=***\n"


def test_no_setting_and_no_target_shows_a_secret_of_its_own(canaries: Canaries) -> None:
    settings = from_env(
        {
            "HOME": "/home/ann",
            "PILOTHOUSE_DATABASE_URL": f"postgresql://u:{canaries.at('database').encoded}@h/d",
            "PILOTHOUSE_REDIS_URL": f"redis://u:{canaries.at('redis').encoded}@h/0",
            "PILOTHOUSE_OTLP_ENDPOINT": f"https://u:{canaries.at('endpoint').encoded}@h",
            "PILOTHOUSE_OTLP_HEADERS": f"authorization=Bearer%20{canaries.at('header').encoded}",
            "PILOTHOUSE_KAFKA": "b:1?security_protocol=SASL_PLAINTEXT&sasl_username=u&sasl_password_env=KP",
            "KP": str(canaries.at("sasl")),
        }
    )
    cell = Cell(name="eu1", tenants=(Tenant(name="acme"),))
    target = Target(cell, Resource(name="r", system="redis"), f"redis://:{canaries.at('target')}@h")
    assert canaries.found(f"{settings!r} {settings} {target!r}".encode()) == []


def test_a_dead_letter_keeps_every_byte_but_those_of_secrets(canaries: Canaries) -> None:
    known, shaped = canaries.at("known"), canaries.at("shaped", "-")
    learn(str(known))
    payload = b"\xff\x00" + f'{{"a": "{known.encoded}", "b": "Bearer {shaped}", "c": 1}}'.encode() + b"\xfe"
    letter = dead_letter(
        Rejected(Reason.INVALID, f"got password={shaped} and {known}", payload),
        rejected_by="sink.timescale",
        time_ms=1,
        topic="events.operations.v1",
        key=f"token={shaped}".encode(),
        headers=[
            ("authorization", str(shaped).encode()),
            (f"x {known}", b"y"),
            ("ce_type", b"com.pilothouse.change.v1"),
        ],
    )
    wire = encode_dead_letter(letter)
    assert canaries.found(wire.value + b64decode(letter.payload)) == []
    assert b64decode(letter.payload) == b'\xff\x00{"a": "***", "b": "Bearer ***", "c": 1}\xfe'
    assert letter.headers["ce_type"] == "com.pilothouse.change.v1"


async def test_an_event_is_masked_on_its_way_into_the_spool_whoever_made_it(canaries: Canaries, tmp_path: Path) -> None:
    one, named = canaries.at("a body", "-"), canaries.at("a named attribute")
    event = OperationsEvent(
        cell="eu1",
        time_ms=1,
        resource="r",
        system="redis",
        name="redis.x",
        body=f"redis://:{one}@h is away",
        attributes={"redis.password": str(named), "redis.clients": 7},
    )
    spool = Spool(tmp_path / "spool.db", name="ingest", clock=lambda: 1)
    await spool.open()
    await spool.accept([event])
    kept = await spool.advance([], max_bytes=2**20)
    await spool.close()
    assert canaries.found(b"".join(row.value for row in kept)) == []
    assert b'"redis.clients":7' in kept[0].value


def test_the_labels_of_series_hold_no_secret_and_stay_series(canaries: Canaries) -> None:
    one, named, known = (
        canaries.at("a label", "-"),
        canaries.at("a named label", "-"),
        canaries.at("a known label", "-"),
    )
    learn(str(known))
    series = f'a{{b="Bearer {one}",c="d"}}\na{{password="{named}"}}\na{{x="{known}"}}'
    assert without_secrets({"series": series}) == {"series": 'a{b="Bearer ***",c="d"}\na{password="***"}\na{x="***"}'}
    target = Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), Resource(name="r", system="redis"), "")
    poll = Poll(target, 1)
    assert poll.series("a", {"client": f"token={one}", "password": str(named), "x": str(known), "db": "acme"}) == (
        'a{client="token=***",db="acme",password="***",x="***"}'
    )
