"""None of very many secrets that are planted in an Odoo log comes out anywhere, and what is useful still does."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.collector import Collected, Target
from ingest.collectors.odoo_log import OdooLog
from ingest.collectors.odoo_log_bodies import body, shippable, shippable_bytes
from ingest.collectors.odoo_log_lines import Entry
from schemas import masking
from schemas.estate import Cell, Resource, Tenant
from schemas.records import LogBatch
from tests.support.golden import GOLDEN

NOW_MS = 1_795_240_000_000
CELL = Cell(name="eu1", tenants=(Tenant(name="acme"),))
TIME = "2026-11-21 03:00:00,125"
CANARY = "c4naRy-{}-b1rD"
TRACEBACK = 'Exception during request handling.\nTraceback (most recent call last):\n  File "/opt/odoo/odoo/http.py", line 1786, in _serve_db\n'

# {} is the secret. By logger: what Odoo, PostgreSQL below it, and modules write.
NO_LITERAL = (
    "SELECT 1 -- x\nERROR: {}"  # as it stands it may be what PostgreSQL said; in a representation these are names
)
STATEMENTS = (
    "UPDATE res_users SET password = '{}' WHERE id = 2",
    "INSERT INTO t (a, b) VALUES (1, 'it''s {}'), (2, E'x\\'{}')",
    "SELECT * FROM t WHERE a = $${}$$ AND b = $tag$'{}$tag$",
    "SELECT 1 /* {} */ -- {}",
    "SELECT 'a\nERROR: {}\nDETAIL: {}' FROM t",
    NO_LITERAL,
    "SELECT U&'{}', N'{}', '\\{}'",
    "SELECT * FROM t WHERE a = 'never closed {}",
    "ALTER ROLE odoo PASSWORD '{}'",
    "SELECT * FROM res_users WHERE login = '\u2003{}' AND x = E'\\'{}'",
    "COPY t FROM PROGRAM '{}'",
)
ERRORS = (
    'duplicate key value violates unique constraint "res_users_login_key"\nDETAIL:  Key (login)=({}) already exists.',
    'null value in column "a" of relation "t" violates not-null constraint\nDETAIL:  Failing row contains (1, {}, null).',
    "invalid input syntax for type integer: \"{}\"\nLINE 1: SELECT * FROM t WHERE a = '{}'\n                       ^",
    'invalid input syntax for type integer: "a"b {}"',
    'invalid input syntax for type json\nDETAIL:  Token "{}" is invalid.\nCONTEXT:  JSON data, line 1: {}',
    'invalid input value for enum mood: "{}"',
    'value "{}" is out of range for type integer',
    'date/time field value out of range: "{}"',
    'malformed array literal: "{}"',
    'syntax error at or near "{}"\nLINE 3: {}',
    'unterminated quoted string at or near "\'{}"',
    'column "{}" does not exist\nHINT:  Perhaps you meant "{}".',
    'insert or update on table "a" violates foreign key constraint "b"\nDETAIL:  Key (x)=({}\n{}) is not present in table "c".',
    "could not serialize access due to concurrent update\nCONTEXT:  SQL statement \"UPDATE t SET a = '{}'\"",
    "the customer {} has no IBAN",
    'invalid byte sequence for encoding "UTF8": 0x{}',
    "doppelter Schlüsselwert\nDETAIL:  Schlüssel »(login)=({})« existiert bereits.\nZEILE 1: {}",
    'invalid input syntax for type integer: "multi\nline {}"',
)
MESSAGES = (
    ("odoo.sql_db", "[12.345 ms] query: SELECT '{}'"),
    ("odoo.sql_db", "query: CREATE TEMP TABLE x AS TABLE y WHERE a = '{}'"),
    ("odoo.sql_db", "Programming error: x, in query SELECT * FROM t WHERE a = '{}'"),
    ("odoo.sql_db", "ConnectionPool(used=1/count=1/max=64): Closed 1 connections to 'user=odoo password={} dbname=acme'"),
    ("odoo.sql_db", "Connection to the database failed: postgresql://odoo:{}@db:5432/acme"),
    ("odoo.addons.base.models.ir_mail_server", "SMTP login failed: smtp_pass={} smtp_user=x"),
    ("odoo.addons.mail", "AUTH failed with password {}"),
    ("odoo.addons.x", "GET https://user:{}@api.example.com/v1 failed"),
    ("odoo.addons.x", "redis://:a/b#c?{}@cache:6379/0 is away"),
    ("odoo.addons.x", "POST https://api.example.com/orders?access_token={}&x=1 answered 500"),
    ("odoo.addons.x", "request headers: {{'Authorization': 'Bearer {}', 'Accept': '*/*'}}"),
    ("odoo.addons.x", "Authorization: Basic {}"),
    ("odoo.addons.x", "Bearer {} was refused"),
    ("odoo.addons.x", "X-Api-Key: {}"),
    ("odoo.addons.x", "Cookie: frontend_lang=en_US; session_id={}"),
    ("odoo.addons.x", "session_id={}"),
    ("odoo.addons.x", '{{"password": "{}", "login": "x"}}'),
    ("odoo.addons.x", "{{'api_key': '{}', 'url': 'https://example.com'}}"),
    ("odoo.addons.x", "credentials ('token', '{}')"),
    ("odoo.addons.x", "<apiKey>{}</apiKey>"),
    ("odoo.addons.x", "executing SELECT * FROM t WHERE a = '{}' took 12 s"),
    ("odoo.addons.x", "executing select a, b from t where a = '{}'"),
    ("odoo.addons.x", "executing update t set a = '{}' where id = 1"),
    ("odoo.addons.x", "row refused: Key (vat)=({}) already exists."),
    ("odoo.addons.x", "UniqueViolation('duplicate key\\nDETAIL:  Key (vat)=({}) already exists.\\n')"),
    ("odoo.addons.x", "-----BEGIN RSA PRIVATE KEY-----\n{}\n{}\n-----END RSA PRIVATE KEY-----"),
    ("odoo.addons.x", "aws_secret_access_key = {}"),
    ("odoo.addons.x", "client_secret={}&grant_type=refresh"),
    ("odoo.addons.x", "https://hooks.slack.com/services/T0/B0/{}"),
    ("odoo.addons.x", "b:9092?sasl_password={}"),
    ("odoo.addons.x", "ValueError: Wrong value for res.partner.type: '{}'"),
    ("odoo.addons.x", "invalid literal for int() with base 10: '{}'"),
    ("odoo.addons.x", "time data '{}' does not match format '%Y'"),
    ("odoo.addons.auth_signup.controllers.main", "Password reset attempt for <{}> by user <public> from 192.0.2.7"),
    ("odoo.addons.auth_signup", "https://acme.example.com/web/reset_password?db=acme&token={}&login=x"),
    ("odoo.addons.base.models.ir_cron", "Job 'sync password={}' (7) server action #4 failed"),
    ("odoo.addons.base.models.ir_cron", "Job 'sync password={}' (7) starting"),
    ("odoo.addons.base.models.ir_cron", "Call from cron sync token={} for server action #4 failed in Job #7"),
    ("odoo.modules.loading", "Module token={} loaded in 1.0s, 2 queries"),
    ("odoo.addons.queue_job.jobrunner.runner", "Re-queued dead job with uuid: token={}"),
    ("odoo.addons.queue_job.jobrunner.runner", "exception in GET http://u:{}@127.0.0.1:8069/queue_job/runjob"),
    ("odoo.addons.base.models.res_users", "Login failed for db:acme login:x password={} from 192.0.2.7"),
    ("odoo.addons.base.models.res_users", "Users API Keys generated: scope: <token={}> for 'x' (#2) from n/a"),
    ("odoo.http", TRACEBACK + "    cr.execute(\"SELECT * FROM t WHERE a = '{}'\")\npsycopg2.Error: x"),
    ("odoo.http", TRACEBACK + "requests.exceptions.ConnectionError: HTTPSConnectionPool: /x?api_key={}"),
    ("werkzeug", '192.0.2.7 - - [21/Nov/2026 03:00:00] "GET /web/login?token={} HTTP/1.1" 200 - 1 0.1 0.1'),
)  # fmt: skip


def planted() -> Iterator[tuple[str, str]]:
    """Logger and message of everything that holds a secret."""
    yield from MESSAGES
    for statement in STATEMENTS:
        yield "odoo.sql_db", f"bad query: {statement}\nERROR: could not serialize access due to concurrent update"
        if statement == NO_LITERAL:
            continue
        shown = repr(statement.encode())
        yield "odoo.sql_db", f"bad query: {shown}\nERROR: could not serialize access due to concurrent update"
        yield "odoo.sql_db", f"bad query: {shown[: len(shown) - 3]}"
    for error in ERRORS:
        yield "odoo.sql_db", f"bad query: SELECT 1\nERROR: {error}"
        yield "odoo.sql_db", f"bad query: b'SELECT 1'\nERROR: {error}"
        yield "odoo.http", f"{TRACEBACK}psycopg2.errors.UniqueViolation: {error}"
        chained = "\n\nThe above exception was the direct cause of the following exception:\n\n"
        yield "odoo.http", f"{TRACEBACK}psycopg2.errors.UniqueViolation: {error}{chained}{TRACEBACK}ValueError: useful"
        yield "odoo.addons.x", f"import failed: ERROR: {error}"


PLANTED = [(logger, message.replace("{{", "{").replace("}}", "}")) for logger, message in planted()]


def as_plain(logger: str, message: str) -> bytes:
    return f"{TIME} 77 ERROR acme {logger}: {message}\n".encode()


def as_json(logger: str, message: str) -> bytes:
    head, mark, trace = message.partition("\nTraceback")
    fields = {"asctime": TIME, "pid": 77, "levelname": "ERROR", "dbname": "acme", "name": logger, "message": head}
    return f"{json.dumps({**fields, **({'exc_info': mark.strip() + trace} if mark else {})})}\n".encode()


def as_no_text(logger: str, message: str) -> bytes:
    return as_plain(logger, message).replace(b"acme", b"acme\xff", 1)


def as_no_record(logger: str, message: str) -> bytes:
    return f"{message}\n".encode()


def as_of_the_future(logger: str, message: str) -> bytes:
    return as_plain(logger, message).replace(b"2026", b"2126", 1)


FORMS = (as_plain, as_json, as_no_text, as_no_record, as_of_the_future)


async def read(path: Path, data: bytes) -> Collected:
    path.write_bytes(data)  # noqa: ASYNC240 (a test may wait for its disk)
    os.utime(path, ns=(NOW_MS * 1_000_000, NOW_MS * 1_000_000))
    options = {"ship": "all", "max_bytes": 16_777_216}
    resource = Resource(name="odoo-log", system="odoo_log", url=path.as_uri(), options=options)
    return await OdooLog(Target(CELL, resource, path.as_uri())).collect(NOW_MS + 60_000, None)


def out(collected: Collected) -> str:
    """Everything that leaves: records as they are sent, dead letters with their bytes, the stored position."""
    records = [record.model_dump_json() for record in collected.records]
    refused = [f"{why} {data.decode('latin-1')}" for why, data in collected.refused]
    return "\n".join([*records, *refused, collected.position or ""])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_no_planted_secret_comes_out(form: object, tmp_path: Path) -> None:
    assert len(PLANTED) >= 160
    lines = [
        form(logger, message.replace("{}", CANARY.format(number))) for number, (logger, message) in enumerate(PLANTED)
    ]  # type: ignore[operator]
    shown = out(await read(tmp_path / "odoo.log", b"".join(lines)))
    leaked = [PLANTED[number] for number in range(len(PLANTED)) if CANARY.format(number) in shown]
    assert leaked == []
    # Not in parts either, nor where a representation or JSON has escaped it.
    assert "c4naRy" not in shown
    assert "b1rD" not in shown


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_no_known_secret_comes_out_wherever_it_stands(form: object, tmp_path: Path) -> None:
    secret = "pl4in-w0rds-of-nobody"
    before = dict(masking._known)
    masking.learn(secret)
    try:
        places = [
            ("odoo.http", f"x {secret} y"),
            (f"odoo.addons.{secret}", "x"),
            ("odoo.http", f"Basic {b64encode(f'odoo:{secret}'.encode()).decode()}"),
            ("odoo.http", f"{TRACEBACK}{secret}: x"),
            ("odoo.addons.base.models.ir_cron", f"Job '{secret}' (7) starting"),
            ("odoo.addons.base.models.ir_cron", f"Job '{secret}' (7) timed out"),
            ("odoo.addons.base.models.ir_cron", f"Job '{secret}' (7) done in 1.0s"),
            ("odoo.addons.base.models.res_users", f"Login failed for db:{secret} login:{secret} from 192.0.2.7"),
            ("odoo.addons.base.models.res_users", f"K generated: scope: <{secret}> for '{secret}' (#2) from n/a"),
            ("odoo.modules.loading", f"Module {secret} loaded in 1.0s, 2 queries"),
            ("odoo.addons.queue_job.jobrunner.runner", f"Re-queued dead job with uuid: {secret}"),
            ("odoo.service.server", f"Worker Worker{secret} (7) alive"),
            ("odoo.sql_db", f'bad query: SELECT "{secret}" FROM {secret}\nERROR: relation "{secret}" does not exist'),
        ]
        lines = [form(logger, message) for logger, message in places]  # type: ignore[operator]
        lines += [line.replace(b"acme", secret.encode(), 1) for line in lines]
        shown = out(await read(tmp_path / "odoo.log", b"".join(lines)))
    finally:
        masking._known.clear()
        masking._known.update(before)
    assert secret not in shown
    assert "w0rds" not in shown


KEPT = (
    ("odoo.service.server", "Worker (15150) CPU time limit (3) reached."),
    ("odoo.addons.base.models.ir_cron", "Job 'Base: Auto-vacuum internal data' (1) done in 0.420s"),
    ("odoo.addons.base.models.ir_cron", "Cron job 'ACME: bad SQL' (27) has been deactivated after failing 5 times."),
    ("odoo.http", "No rule has been found to replenish '[DESK0005] Customizable Desk' in 'WH/Stock'."),
    ("odoo.http", "You can not delete a sent quotation or a confirmed sales order. You must first cancel it."),
    ("odoo.http", "<function odoo.addons.queue_job.controllers.main.create_test_job> called ignoring args {'eta'}"),
    ("odoo.http", f"{TRACEBACK}ValueError: Invalid field sale.order.nofield in leaf ('nofield', '=', 1)"),
    ("odoo.http", f"{TRACEBACK}psycopg2.errors.SerializationFailure: could not serialize access due to concurrent update"),
    ("odoo.http", f"{TRACEBACK}psycopg2.errors.LockNotAvailable: could not obtain lock on row in relation \"sale_order\""),
    ("odoo.http", f"{TRACEBACK}KeyError: 'partner_id'"),
    ("odoo.http", f"{TRACEBACK}    self.env.cr.commit()\npsycopg2.OperationalError: server closed the connection unexpectedly"),
    ("odoo.sql_db", "bad query: SELECT * FROM acme_missing_table\nERROR: relation \"acme_missing_table\" does not exist"),
    ("odoo.sql_db", "bad query: UPDATE a SET b = ? WHERE c IN (?)\nERROR: deadlock detected"),
    ("odoo.modules.loading", "module auth_totp: creating or updating database tables"),
    ("odoo.modules.loading", "Module auth_password_policy loaded in 0.74s, 799 queries (+799 other)"),
    ("odoo.addons.base.models.ir_module", "ALLOW access to module.button_install on ['Sales'] to user admin #2 via n/a"),
    ("odoo.service.model", "SERIALIZATION_FAILURE, 4 tries left, try again in 0.6075 sec..."),
    ("odoo.addons.queue_job.jobrunner.runner", "Re-queued dead job with uuid: eef19dce-7b61-4756-ac5e-2de84c26ad9f"),
    ("odoo.addons.base.models.res_users", "The rate-limited IP address 127.0.0.1 is classified as private and *might* be a proxy."),
    ("odoo", "Using configuration file at /etc/odoo/odoo17.conf"),
    ("odoo", "database: odoo@127.0.0.1:55471"),
    ("werkzeug", '127.0.0.1 - - [21/Nov/2026 03:29:07] "GET /web/health HTTP/1.1" 200 - 20 0.013 2.739'),
    ("odoo.addons.rpc.controllers.xmlrpc", "Please see https://www.odoo.com/documentation/latest/x.html#migrating for details"),
    ("odoo.addons.x", "Please select a product from the customer's list where it says so"),
)  # fmt: skip


@pytest.mark.parametrize(("logger", "message"), KEPT)
def test_what_is_known_to_be_harmless_is_shipped_as_it_is(logger: str, message: str) -> None:
    assert body(Entry(NOW_MS, 77, "ERROR", None, logger, message), mask=True) == message
    assert shippable(message, logger) == message


def test_most_of_the_recorded_lines_are_shipped_as_they_are() -> None:
    lines = [
        line.split(": ", 1)[1]
        for version in ("17.0", "18.0", "19.0")
        for line in (GOLDEN / "odoo_log" / f"{version}.log").read_text().splitlines()
        if line.startswith("2026") and "bad query" not in line
    ]
    changed = [line for line in lines if shippable(line) != line]
    assert len(lines) > 400
    assert all("device log" in line or "password=" in line for line in changed), changed


def test_behind_what_was_left_out_the_next_traceback_goes_on() -> None:
    message = (
        f'{TRACEBACK}psycopg2.errors.UniqueViolation: duplicate key value violates unique constraint "u"\nDETAIL:  Key (a)=(x) exists.\n'
        f"\nDuring handling of the above exception, another exception occurred:\n\n{TRACEBACK}odoo.exceptions.UserError: No stock"
    )
    shown = shippable(message)
    assert "Key" not in shown
    assert 'UniqueViolation: duplicate key value violates unique constraint "u"' in shown
    assert shown.endswith("odoo.exceptions.UserError: No stock")


def test_dead_letters_keep_their_bytes_but_for_what_may_not_leave() -> None:
    assert shippable_bytes(b"caf\xe9 \x00\xff end", mask=True) == b"caf\xe9 \x00\xff end"
    assert shippable_bytes(b"caf\xe9 password=x1y2z3 end", mask=True) == b"caf\xe9 password=*** end"
    assert shippable_bytes(b"9" * 300_000, mask=True).endswith(b" ... and 37856 bytes more")


async def test_bodies_of_a_recorded_log_hold_no_value_of_a_statement(tmp_path: Path) -> None:
    for version in ("17.0", "18.0", "19.0"):
        collected = await read(tmp_path / version, (GOLDEN / "odoo_log" / f"{version}.log").read_bytes())
        (batch,) = (record for record in collected.records if isinstance(record, LogBatch))
        refused = [body for body in batch.bodies if body.startswith("bad query: ")]
        assert refused
        assert all("S00057" not in body and "'" not in body for body in refused)
