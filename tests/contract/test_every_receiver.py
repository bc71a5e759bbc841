"""What every registered receiver owes, behind its real server: to its senders, and against everybody else."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import random
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ingest.counts import Count, Counts
from ingest.receivers.admission import check_times
from ingest.receivers.connections import Limits
from ingest.receivers.events import MODELS
from ingest.receivers.http import Server
from ingest.receivers.receiver import Received, Receiver, Request
from ingest.receivers.refusals import Refused
from ingest.receivers.registry import RECEIVERS
from ingest.receivers.signature import Holder
from ingest.spool import Bounds, Row, Spool
from schemas.estate import Key
from schemas.records import Change, OperationsEvent, Scrape
from schemas.topics import BY_NAME, INPUTS, topic_of
from tests.support.senders import (
    BODIES,
    ESTATE,
    NOW_MS,
    PROOFS,
    SENDERS,
    Sender,
    bearer,
    made,
    records,
    secret,
    signed_as_standard_webhooks,
)

OPEN = Key(env="K1")
SCOPED = Key(env="K2", cells=("eu1",), tenants=("acme",))
LIMITS = Limits(header_timeout_s=0.5, body_timeout_s=0.5)
EVENTS = RECEIVERS["events"]

each_sender = pytest.mark.parametrize("sender", SENDERS, ids=str)


class House:
    """All receivers behind their server, with a spool."""

    def __init__(self, server: Server, spool: Spool, counts: Counts) -> None:
        self.server, self.spool, self.counts = server, spool, counts

    async def send(self, sender: Sender, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        status, _, answer = await self.raw(request(sender.kind.path, body, headers))
        return status, answer

    async def raw(self, data: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Send bytes on a connection of their own; status, headers and JSON of the first answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(data)
            return await answer_of(reader)
        finally:
            writer.close()

    async def kept(self) -> list[Row]:
        return await self.spool.advance([], max_bytes=2**40)


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], dict[str, Any]]:
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines[1:]) if name}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers, json.loads(body) if body else {}


def request(path: str, body: bytes, headers: dict[str, str], *more: str) -> bytes:
    given = {"host": "x", "content-length": str(len(body)), "connection": "close", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def opened(
    place: Path, *keys: Key, limits: Limits = LIMITS, bounds: Bounds | None = None
) -> AsyncIterator[House]:
    counts = Counts()
    spool = Spool(place / "spool.db", name="ingest", clock=lambda: NOW_MS, counts=counts, bounds=bounds)
    await spool.open()
    receivers = {kind.path: made(kind, *(keys or (OPEN, SCOPED))) for kind in RECEIVERS.values()}
    server = Server(receivers, spool, clock=lambda: NOW_MS, counts=counts, limits=limits)
    await server.start()
    try:
        yield House(server, spool, counts)
    finally:
        await server.stop()
        await spool.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opened(tmp_path) as one:
        yield one


@pytest.fixture(autouse=True)
def _nothing_is_our_mistake(caplog: pytest.LogCaptureFixture) -> Any:
    """No receiver fails, and no key or signature stands in a log, whatever a test does."""
    yield
    text = caplog.text
    assert "a receiver failed" not in text
    assert "Traceback" not in text
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert not [number for number in range(9) if secret(number).removeprefix("whsec_") in text]


def proven(sender: Sender, number: int = 1, key: int = 1, **more: Any) -> tuple[bytes, dict[str, str]]:
    body = sender.body(number=number, **more)
    return body, sender.prove(secret(key), body, f"d-{number}")


def test_every_receiver_has_a_sender_here() -> None:
    assert set(BODIES) == set(RECEIVERS)
    assert {kind.proof for kind in RECEIVERS.values()} <= set(PROOFS)


@each_sender
async def test_what_is_proven_is_kept_once(house: House, sender: Sender) -> None:
    assert await house.send(sender, *proven(sender)) == (202, {"accepted": 1, "duplicates": 0})
    assert (await house.send(sender, *proven(sender, number=2)))[0] == 202
    assert await house.send(sender, *proven(sender)) == (200, {"accepted": 0, "duplicates": 1})
    assert len(await house.kept()) == 2


# Who sends.


@each_sender
async def test_nobody_is_in_without_a_right_key(house: House, sender: Sender) -> None:
    body, right = proven(sender)
    wrong = [
        {},
        dict.fromkeys(right, ""),
        dict.fromkeys(right, "x" * 60),
        sender.prove(secret(7), body, "d-1"),
        sender.prove(secret(1), body + b" ", "d-1") if sender.is_signed else {"authorization": secret(1)},
        {name: value[:-1] for name, value in right.items()},
        {"authorization": "Bearer "},
        {"authorization": "Bearer é\udce9".encode("utf-8", "surrogateescape").decode("latin-1")},
        {"authorization": f"Basic {base64.b64encode(secret(1).encode()).decode()}"},
    ]
    for headers in wrong:
        status, answer = await house.send(sender, body, headers)
        assert status == answer["status"] == 401, headers
        assert secret(1) not in json.dumps(answer)
    assert house.counts[Count.UNAUTHENTICATED] == len(wrong)
    assert await house.kept() == []


@each_sender
async def test_an_unknown_sender_is_answered_before_its_body_is_read(house: House, sender: Sender) -> None:
    status, _, _ = await house.raw(request(sender.kind.path, b"", {"content-length": str(2**40)}))
    assert status == 401


@each_sender
async def test_a_signature_holds_for_its_time_and_its_id_only(house: House, sender: Sender) -> None:
    """Whatever is not signed may be changed by whoever caught a request: it must not be taken again for that."""
    body, headers = proven(sender)
    assert (await house.send(sender, body, headers))[0] == 202
    if not sender.is_signed:
        return  # who holds the token may say what it wants
    for name, value in [*headers.items(), ("x-github-delivery", ""), ("webhook-id", ""), ("user-agent", "")]:
        for other in (f"{value}1", "another", value.upper()):
            status, _ = await house.send(sender, body, {**headers, name: other})
            assert status in (200, 401), (name, other)
    for name in headers:
        rest = {one: value for one, value in headers.items() if one != name}
        assert (await house.send(sender, body, rest))[0] in (200, 401), name
    assert len(await house.kept()) == 1


async def test_a_standard_webhook_is_refused_outside_of_its_time() -> None:
    receiver = made(RECEIVERS["change"], OPEN)
    body = json.dumps(BODIES["change"]("eu1", None, 1)).encode()
    for at_ms, is_taken in (
        (NOW_MS, True),
        (NOW_MS - 299_000, True),
        (NOW_MS - 301_000, False),
        (NOW_MS + 301_000, False),
    ):
        proof = Request(signed_as_standard_webhooks(secret(1), body, "a", at_ms), body)
        if is_taken:
            assert receiver.receive(proof, NOW_MS).records
        else:
            with pytest.raises(Refused, match="within 5 minutes"):
                receiver.receive(proof, NOW_MS)


async def test_an_old_delivery_of_github_cannot_be_brought_again_when_it_is_forgotten() -> None:
    receiver, sender = made(RECEIVERS["github"], OPEN), SENDERS[[one.kind.name for one in SENDERS].index("github")]
    body, headers = proven(sender)
    receiver.receive(Request(headers, body), NOW_MS + 86_000_000)
    with pytest.raises(Refused, match="within 24 hours"):
        receiver.receive(Request(headers, body), NOW_MS + 86_401_000)


async def test_one_sender_cannot_take_the_delivery_ids_of_another(tmp_path: Path) -> None:
    async with opened(tmp_path, OPEN, Key(env="OTHER")) as house:
        for number, sender in enumerate(SENDERS):
            assert (await house.send(sender, *proven(sender, number=number, key=1)))[0] == 202
            assert (await house.send(sender, *proven(sender, number=number, key=2)))[0] == 202


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("translate", ["+/", "-_"])
def test_a_signing_key_is_read_in_either_alphabet_with_or_without_padding(padding: bool, translate: str) -> None:
    raw = bytes(range(235, 256)) + b"\xfb\xff\xfe\xff"
    key = "whsec_" + base64.b64encode(raw).decode().translate(str.maketrans("+/", translate))
    receiver = RECEIVERS["change"].make(ESTATE, [Holder(key if padding else key.rstrip("="), OPEN)])
    body = json.dumps(BODIES["change"]("eu1", None, 1)).encode()
    headers = signed_as_standard_webhooks("whsec_" + base64.b64encode(raw).decode(), body, "a")
    assert receiver.receive(Request(headers, body), NOW_MS).records


@pytest.mark.parametrize("kind", RECEIVERS.values(), ids=lambda kind: kind.name)
def test_keys_that_keep_no_secret_are_refused(kind: Any) -> None:
    for secrets in ([], ["short"], [secret(1), secret(1)]):
        with pytest.raises(ValueError, match="key"):
            kind.make(ESTATE, [Holder(one, Key(env=f"K{number}")) for number, one in enumerate(secrets)])


# What a key may write.


@each_sender
@pytest.mark.parametrize(
    ("cell", "tenant"),
    [("us1", "zeta"), ("eu1", "birch"), ("eu1", None), ("eu1", "zeta"), ("us1", "acme"), ("mars", "acme")],
)
async def test_a_scoped_key_writes_nothing_else(house: House, sender: Sender, cell: str, tenant: str | None) -> None:
    body = sender.body(cell, tenant)
    status, answer = await house.send(sender, body, sender.prove(secret(2), body, "d-1"))
    assert status == answer["status"] == 403
    assert "is not in the scope of this key; it may write" in answer["detail"]
    assert not {"us1", "birch", "zeta"} & set(
        answer["detail"].replace(repr(cell), "").replace(repr(tenant), "").split()
    )
    assert house.counts[Count.FORBIDDEN] == 1
    assert await house.kept() == []
    body = sender.body("eu1", "acme")
    assert (await house.send(sender, body, sender.prove(secret(2), body, "d-2")))[0] == 202


def test_no_key_writes_a_cell_tenant_or_topic_that_is_not_its_own() -> None:
    """Every scope of one or no cell, tenant and topic against every record of every cell, tenant and topic."""
    places = [(cell.name, tenant) for cell in ESTATE.cells for tenant in [*(one.name for one in cell.tenants), None]]
    written = 0
    for cells in ((), ("eu1",), ("us1",)):
        for tenants in ((), ("acme",), ("zeta",)):
            if ("zeta" in tenants and cells == ("eu1",)) or ("acme" in tenants and cells == ("us1",)):
                continue
            for topics in ((), *((topic.name,) for topic in INPUTS)):
                receiver = made(EVENTS, Key(env="K", cells=cells, tenants=tenants, topics=topics))
                for cell, tenant in places:
                    for record in records(cell, tenant).values():
                        may = (
                            (not cells or cell in cells)
                            and (not tenants or tenant in tenants)
                            and (not topics or topic_of(record).name in topics)
                        )
                        assert is_taken(receiver, record) is may, (cells, tenants, topics, record)
                        written += may
    assert written > 150


def is_taken(receiver: Receiver, *several: Any, key: int = 1) -> bool:
    body = json.dumps([{"type": one.type, "data": one.model_dump(mode="json")} for one in several]).encode()
    try:
        received = receiver.receive(Request(bearer(secret(key), body, "a"), body), NOW_MS)
        check_times(received.records, received.places, NOW_MS)
        return bool(received.records)
    except Refused as refused:
        if refused.status not in (403, 422):
            raise
        return False


@pytest.mark.parametrize(
    "name", ["pilothouse.silence", "Pilothouse.silence", "ｐilothouse.x", " pilothouse.x", "pilothouse"]
)
def test_names_of_pilothouse_itself_are_refused_wherever_they_stand(name: str) -> None:
    receiver = made(EVENTS, Key(env="K", cells=("eu1",), resources=("gateway", "db", name.strip())))
    word = name.strip()
    for model, field in (
        (OperationsEvent.type, "name"),
        (OperationsEvent.type, "system"),
        (Scrape.type, "system"),
        (OperationsEvent.type, "resource"),
        (Change.type, "service"),
        (Change.type, "origin"),
    ):
        record = records("eu1", None)[model]
        assert is_taken(receiver, record)
        assert not is_taken(receiver, record.model_copy(update={field: word})), field
    event = records("eu1", None)[OperationsEvent.type]
    assert not is_taken(receiver, event.model_copy(update={"attributes": {name: "x"}}))
    assert not is_taken(receiver, event, event.model_copy(update={"name": word})), "one of several"
    for series in (f"{word.lower()}.spool.bytes", f'a{{{word.lower()}.collector="x"}}'):
        if series.isascii():
            assert not is_taken(receiver, records("eu1", None)[Scrape.type].model_copy(update={"series": series}))


@pytest.mark.parametrize(
    "name",
    [
        "p\u0456lothouse.silence",
        "pil\u043ethouse.x",
        "pil\u03bfthouse.x",
        "pilo\u200bthouse.x",
        "pilothouse\u200b.x",
        "\ufeffpilothouse.x",
        "pilothouse\u00ad.x",
        "p\u0131lothouse.x",
        "P\u0130LOTHOUSE.x",
        "pilothouse\u0301.x",
        "pilothouse\u3002x",
        "pi1othouse.x",
        "pil0thouse.x",
        "\u0441\u043ellector.unavailable",
        "c0llector.unavailable",
    ],
)
def test_names_that_look_like_those_of_pilothouse_are_refused(name: str) -> None:
    event = records("eu1", None)[OperationsEvent.type]
    assert not is_taken(made(EVENTS, OPEN), event.model_copy(update={"name": name}))


@pytest.mark.parametrize(
    "name", ["pilot.house", "my.pilothouse", "gr\u00fcn.x", "\u0437\u0430\u043a\u0430\u0437.x", "collectors.x", "i.l"]
)
def test_other_names_are_taken_in_any_alphabet(name: str) -> None:
    event = records("eu1", None)[OperationsEvent.type]
    assert is_taken(made(EVENTS, OPEN), event.model_copy(update={"name": name}))


@pytest.mark.parametrize("name", ["collector.unavailable", "collector.recovered", "collector.degraded"])
def test_only_collectors_say_how_they_are(name: str) -> None:
    event = records("eu1", None)[OperationsEvent.type]
    assert not is_taken(made(EVENTS, OPEN), event.model_copy(update={"name": name}))


def test_types_that_only_pilothouse_writes_are_no_events() -> None:
    ours = {topic.model.type for topic in BY_NAME.values() if topic.model} - set(MODELS)
    assert ours >= {"com.pilothouse.signal.v1", "com.pilothouse.incident.v1", "com.pilothouse.dead-letter.v1"}
    receiver = made(EVENTS, OPEN)
    for kind in [*ours, "com.pilothouse.heartbeat.v1"]:
        body = json.dumps({"type": kind, "data": {"cell": "eu1", "time_ms": NOW_MS}}).encode()
        with pytest.raises(Refused, match="known are"):
            receiver.receive(Request(bearer(secret(1), body, "a"), body), NOW_MS)


def test_what_a_collector_reads_is_written_by_it_alone() -> None:
    about = {"resource": "db"}
    for record in records("eu1", None).values():
        if isinstance(record, Change):
            continue
        stranger = record.model_copy(update=about)
        assert is_taken(made(EVENTS, OPEN), stranger) is isinstance(record, OperationsEvent)
        assert not is_taken(made(EVENTS, OPEN), stranger.model_copy(update={"system": "postgresql"}))
        assert is_taken(made(EVENTS, Key(env="K", resources=("db",))), stranger)
        assert not is_taken(made(EVENTS, Key(env="K", resources=("db",))), record)
    assert is_taken(made(EVENTS, OPEN), records("us1", None)[Scrape.type].model_copy(update=about))


@pytest.mark.parametrize("attributes", [{"tenant.id": "birch"}, {"db.namespace": "birch"}])
def test_a_tenant_is_not_smuggled_in_through_attributes(attributes: dict[str, str]) -> None:
    receiver = made(EVENTS, Key(env="K", tenants=("acme",)))
    mine = records("eu1", "acme")
    assert is_taken(
        receiver, mine[OperationsEvent.type].model_copy(update={"attributes": {"db.namespace": "acme_prod"}})
    )
    assert not is_taken(receiver, mine[OperationsEvent.type].model_copy(update={"attributes": attributes}))
    columns = {name: (value,) for name, value in attributes.items()}
    log_type = next(one for one in mine if "logs" in one)
    assert not is_taken(receiver, mine[log_type].model_copy(update={"attributes": columns}))
    ((name, value),) = attributes.items()
    series = (
        f'edi.files{{{name}="{value}",tenant.id="acme"}}' if name != "tenant.id" else f'edi.files{{{name}="{value}"}}'
    )
    assert not is_taken(receiver, mine[Scrape.type].model_copy(update={"series": series}))


@pytest.mark.parametrize("more", [{"origin": "github"}, {"origin": "Estate"}, {"change_id": "github:acme/odoo:42"}])
@pytest.mark.parametrize("name", [name for name in RECEIVERS if name in ("change", "events")])
def test_a_change_does_not_claim_to_come_through_another_interface(name: str, more: dict[str, str]) -> None:
    data = {**BODIES["change"]("eu1", None, 1), "origin": "generic", **more}
    body = json.dumps(data if name == "change" else {"type": Change.type, "data": data}).encode()
    with pytest.raises(Refused, match="belongs to another interface"):
        made(RECEIVERS[name], OPEN).receive(Request(bearer(secret(1), body, "a"), body), NOW_MS)


def test_rows_of_a_batch_and_starts_of_counters_are_not_years_ahead() -> None:
    ahead = NOW_MS + 10**9
    batch = records("eu1", None)[next(one for one in MODELS if "business" in one)]
    scrape = records("eu1", None)[Scrape.type]
    assert not is_taken(made(EVENTS, OPEN), batch.model_copy(update={"times_ms": (ahead,)}))
    assert not is_taken(made(EVENTS, OPEN), scrape.model_copy(update={"start_time_ms": ahead}))


# How much.


@each_sender
async def test_a_quota_is_told_with_the_time_to_wait(tmp_path: Path, sender: Sender) -> None:
    async with opened(tmp_path, Key(env="K9", records_per_minute=3), OPEN) as house:
        answers = [await house.raw(request(sender.kind.path, *proven(sender, number=one))) for one in range(5)]
        assert [status for status, _, _ in answers] == [202, 202, 202, 429, 429]
        _, headers, problem = answers[-1]
        assert 1 <= int(headers["retry-after"]) <= 20
        assert "3 records" in problem["detail"]
        assert house.counts[Count.THROTTLED] == 2
        assert (await house.send(sender, *proven(sender, number=9, key=2)))[0] == 202  # nobody else pays


@each_sender
async def test_a_quota_counts_bytes_of_refused_requests_too(tmp_path: Path, sender: Sender) -> None:
    async with opened(tmp_path, Key(env="K1", bytes_per_minute=1000)) as house:
        body = b"{" + b" " * 2000
        statuses = [(await house.send(sender, body, sender.prove(secret(1), body, str(one))))[0] for one in range(2)]
        assert statuses == [400, 429]


async def test_one_senders_flood_is_refused_and_another_is_taken(tmp_path: Path) -> None:
    async with opened(tmp_path, OPEN, Key(env="OTHER"), bounds=Bounds(max_records=30)) as house:
        sender = SENDERS[0]
        statuses = [(await house.send(sender, *proven(sender, number=one)))[0] for one in range(30)]
        assert statuses == [202] * 20 + [503] * 10
        assert (await house.send(sender, *proven(sender, number=99, key=2)))[0] == 202


# What a body may be.


def chunked(path: str, pieces: list[bytes], headers: dict[str, str]) -> bytes:
    head = request(path, b"", headers).replace(b"content-length: 0", b"transfer-encoding: chunked")
    return head + b"".join(f"{len(one):x}\r\n".encode() + one + b"\r\n" for one in pieces) + b"0\r\n\r\n"


@each_sender
async def test_a_body_that_is_too_large_is_refused_however_it_comes(house: House, sender: Sender) -> None:
    large = b" " * (2**20 + 1)
    headers = sender.prove(secret(1), large, "d-1")
    for data in (
        request(sender.kind.path, large, headers),
        request(sender.kind.path, b"", {**headers, "content-length": str(10**15)}),
        chunked(sender.kind.path, [large[:60_000]] * 18, headers),
    ):
        status, _, answer = await house.raw(data)
        assert (status, "1048576 bytes" in answer["detail"]) == (413, True)


@each_sender
async def test_a_compressed_body_is_read_and_a_bomb_is_not_inflated(house: House, sender: Sender) -> None:
    body = sender.body()
    for number, (coding, sent) in enumerate(
        [
            ("gzip", gzip.compress(body)),
            ("GZIP", gzip.compress(body[:9]) + gzip.compress(body[9:])),
            ("deflate", zlib.compress(body)),
            ("deflate", zlib.compress(body)[2:-4]),
            ("identity", body),
        ]
    ):
        status, answer = await house.send(
            sender, sent, {**sender.prove(secret(1), body, "d-1"), "content-encoding": coding}
        )
        assert status == (200 if number else 202), (coding, answer)
    bomb = zlib.compressobj(9, wbits=31)
    sent = b"".join(bomb.compress(bytes(2**20)) for _ in range(256)) + bomb.flush()
    status, answer = await house.send(sender, sent, {**sender.prove(secret(1), b"", "d"), "content-encoding": "gzip"})
    assert (status, "when it is inflated" in answer["detail"]) == (413, True)


@each_sender
@pytest.mark.parametrize(
    ("coding", "sent", "status"),
    [
        ("deflate", b"garbage", 400),
        ("gzip", b"garbage", 400),
        ("gzip", gzip.compress(b"{}")[:-5], 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(b"") * 100, 400),
        ("br", b"{}", 415),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}")), 415),
        ("zstd", b"\x28\xb5\x2f\xfd", 415),
    ],
    ids=["garbage deflate", "garbage gzip", "cut", "empty", "many parts", "br", "twice", "zstd"],
)
async def test_an_encoding_that_cannot_be_read_is_named(
    house: House, sender: Sender, coding: str, sent: bytes, status: int
) -> None:
    headers = sender.prove(secret(1), sent, "d")
    got, answer = await house.send(sender, sent, {**headers, "content-encoding": coding})
    assert got == status, answer
    assert "gzip" in answer["detail"] or "deflate" in answer["detail"]


HOSTILE = {
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "cut": b'{"a": ',
    "empty": b"",
    "null": b"null",
    "a number": b"7",
    "a text": b'"x"',
    "nested lists": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "nested a little": b'{"deployment_status":' * 40 + b"1" + b"}" * 40,
    "a number of 5,000 digits": b'{"a": ' + b"7" * 5000 + b"}",
    "a number of a million digits": b'{"a": ' + b"7" * 1_000_000 + b"}",
    "a float of a million digits": b'{"a": 0.' + b"7" * 1_000_000 + b"}",
    "1e999999999": b'{"a": 1e999999999}',
    "NaN": b'{"a": NaN}',
    "a million entries": b"[" + b"0," * 500_000 + b"0]",
    "many keys": b"{" + b",".join(b'"%d":0' % one for one in range(100_000)) + b"}",
    "a key twice": b'{"cell": "eu1", "cell": "us1"}',
    "NUL": b'{"a": "\\u0000"}',
    "half a character": b'{"a": "\\ud800"}',
    "half a character as a key": b'{"\\udfff": 1}',
    "a form": b"payload=%7B%22a%22%3A1%7D",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@each_sender
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_body_is_the_senders_mistake(house: House, sender: Sender, body: bytes) -> None:
    status, answer = await house.send(sender, body, sender.prove(secret(1), body, "d"))
    assert status in (400, 422), answer
    assert answer["detail"]
    assert len(json.dumps(answer)) < 20_000
    assert await house.kept() == []


@each_sender
@pytest.mark.parametrize(
    "kind", ["text/xml", "multipart/form-data; boundary=x", "application/json; charset=latin-1", "", "é"]
)
async def test_a_content_type_does_not_decide_what_a_body_is(house: House, sender: Sender, kind: str) -> None:
    body, headers = proven(sender)
    assert (await house.send(sender, body, {**headers, "content-type": kind}))[0] == 202
    body = b"<xml/>"
    _, answer = await house.send(sender, body, {**sender.prove(secret(1), body, "d"), "content-type": "text/xml"})
    assert "send JSON with content-type application/json, not text/xml" in answer["detail"]


@each_sender
async def test_secrets_in_what_is_sent_are_neither_kept_nor_answered(house: House, sender: Sender) -> None:
    canary = "Tr0ub4dor-canary"
    for number, text in enumerate((f"https://ci:{canary}@x.example/", f"Bearer {canary}", f"password={canary}")):
        body = sender.body(number=number + 10)
        for known in (b"No file.", b"2.4.1", b"maria", b"a" * 40):
            body = body.replace(known, text.encode())
        status, answer = await house.send(sender, body, sender.prove(secret(1), body, f"d-{number}"))
        assert status in (202, 422), answer
        assert canary not in json.dumps(answer)
    for place in (f"/v1/{secret(1)}", f"/v1/password={canary}"):
        _, _, answer = await house.raw(
            request(place, b"", {"content-type": f"Bearer {canary}", "content-encoding": secret(1)})
        )
        assert canary not in json.dumps(answer)
        assert secret(1) not in json.dumps(answer)
    assert not [row for row in await house.kept() if canary.encode() in row.value]


# Below the body.


@each_sender
async def test_headers_that_decide_are_sent_once(house: House, sender: Sender) -> None:
    body, headers = proven(sender)
    for name, value in headers.items():
        status, _, answer = await house.raw(request(sender.kind.path, body, headers, f"{name}: {value}"))
        assert (status, "sent more than once" in answer["detail"]) == (400, True), name
    assert await house.kept() == []


@each_sender
async def test_huge_or_many_headers_and_garbage_are_answered_without_a_trace(house: House, sender: Sender) -> None:
    body, headers = proven(sender)
    whole = request(sender.kind.path, body, headers)
    for data in (
        request(sender.kind.path, body, {**headers, "x": "y" * 100_000}),
        request(sender.kind.path, body, headers, *(f"x{one}: y" for one in range(1000))),
        request("/" + "x" * 100_000, body, headers),
        whole.replace(b"HTTP/1.1", b"HTTP/9.9"),
        whole.replace(b"POST", b"P\x00ST"),
        whole.replace(b"content-length: ", b"content-length: -"),
        whole.replace(b"content-length: ", b"content-length: 5\r\ncontent-length: "),
        whole.replace(b"content-length: ", b"transfer-encoding: chunked\r\ncontent-length: "),
        chunked(sender.kind.path, [], headers).replace(b"0\r\n\r\n", b"zz\r\n"),
        chunked(sender.kind.path, [], headers).replace(b"chunked", b"gzip, chunked"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(range(256)) * 40,
    ):
        try:
            status, _, answer = await house.raw(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            continue  # hung up on: no answer is an answer, too
        assert 400 <= status < 500, (data[:60], answer)
        assert headers[next(iter(headers))] not in json.dumps(answer)
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
        status, _, answer = await house.raw(whole.replace(b"POST", method.encode()))
        assert (status, answer["status"]) == (405, 405)


@each_sender
async def test_a_sender_that_asks_first_is_told_to_go_on_only_when_it_may(house: House, sender: Sender) -> None:
    body, headers = proven(sender)
    for given, expected in ((headers, (100, 202)), ({}, (401,))):
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(
            request(sender.kind.path, b"", {**given, "expect": "100-continue", "content-length": str(len(body))})
        )
        status, _, _ = await answer_of(reader)
        assert status == expected[0]
        if status == 100:
            writer.write(body)
            assert (await answer_of(reader))[0] == expected[1]
        writer.close()


@each_sender
async def test_a_slow_body_is_given_up(house: House, sender: Sender) -> None:
    body, headers = proven(sender)
    status, _, answer = await house.raw(request(sender.kind.path, body, headers)[:-5])
    assert (status, answer["title"]) == (408, "Too slow")


@each_sender
async def test_who_is_not_proven_does_not_keep_its_connection(house: House, sender: Sender) -> None:
    """Guessing costs a connection a guess, and no stranger keeps the server busy over one."""
    data = request(sender.kind.path, b"{}", {"connection": "keep-alive", "content-length": "2"})
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    writer.write(data * 3)
    assert (await answer_of(reader))[0] == 401
    with suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()


async def test_headers_that_do_not_come_are_given_up_however_slowly_they_come(house: House) -> None:
    for before in (b"", request("/healthz", b"", {"connection": "keep-alive"}).replace(b"POST", b"GET")):
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        if before:
            writer.write(before)
            assert (await answer_of(reader))[0] == 200
        writer.write(b"POST /v1/changes HTTP/1.1\r\nhost: x\r\n")
        pieces = 0
        async with asyncio.timeout(20):
            while not reader.at_eof() and pieces < 400:
                writer.write(b"x: y\r\n"[pieces % 6 : pieces % 6 + 1])
                pieces += 1
                try:
                    async with asyncio.timeout(0.05):
                        assert await reader.read() == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
        assert pieces < 100
        writer.close()


async def test_half_open_requests_push_each_other_out_and_a_real_one_is_answered(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=Limits(connections=40, connections_per_address=30)) as house:
        halves = []
        for _ in range(1200):
            _, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
            writer.write(b"POST /v1/changes HTTP/1.1\r\nhost: x\r\n")
            halves.append(writer)
        for number, sender in enumerate(SENDERS):
            assert (await house.send(sender, *proven(sender, number=number)))[0] == 202
        assert house.counts[Count.CONNECTION_REFUSED] >= 1100
        for writer in halves:
            writer.close()


async def hold(house: House, data: bytes, times: int) -> list[asyncio.StreamWriter]:
    """Connections that have sent this and wait."""
    found = []
    for _ in range(times):
        _, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(data)
        found.append(writer)
    return found


async def test_connections_that_are_all_at_work_refuse_a_new_one(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=Limits(connections_per_address=3, body_timeout_s=5)) as house:
        working = await hold(house, request(SENDERS[1].kind.path, *proven(SENDERS[1]))[:-5], 3)
        await asyncio.sleep(0.1)
        status, headers, _ = await house.raw(b"")
        assert (status, headers["retry-after"]) == (503, "1")
        for writer in working:
            writer.close()


async def test_slow_strangers_do_not_take_the_places_of_known_senders(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=Limits(body_timeout_s=5, connections_per_address=200)) as house:
        signing = next(one for one in SENDERS if one.is_signed)
        body, headers = proven(signing)
        strangers = await hold(house, request(signing.kind.path, body, headers)[:-5], 60)
        await asyncio.sleep(0.2)
        assert (await house.send(signing, body, headers))[0] == 503  # of this address there are too many
        known = next(one for one in SENDERS if not one.is_signed)
        assert (await house.send(known, *proven(known)))[0] == 202
        for writer in strangers:
            writer.close()


async def test_a_slow_sender_does_not_take_the_places_of_another(tmp_path: Path) -> None:
    limits = Limits(body_timeout_s=5, connections_per_address=200)
    async with opened(tmp_path, OPEN, Key(env="OTHER"), limits=limits) as house:
        sender = next(one for one in SENDERS if not one.is_signed)
        slow = await hold(house, request(sender.kind.path, *proven(sender))[:-5], 60)
        await asyncio.sleep(0.2)
        assert (await house.send(sender, *proven(sender)))[0] == 503
        assert (await house.send(sender, *proven(sender, key=2)))[0] == 202
        for writer in slow:
            writer.close()


async def test_who_does_not_read_its_answers_is_hung_up_on(tmp_path: Path) -> None:
    limits = Limits(answer_timeout_s=0.3, header_timeout_s=30)
    async with opened(tmp_path, limits=limits) as house:
        _, writer = await asyncio.open_connection("127.0.0.1", house.server.port, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        one = request("/" + "x" * 3000, b"", {"connection": "keep-alive"})
        try:
            async with asyncio.timeout(20):
                while True:
                    writer.write(one * 100)
                    await writer.drain()
                    await asyncio.sleep(0)
        except ConnectionError:
            pass


async def test_pipelined_requests_are_answered_in_their_order(house: House) -> None:
    sender = SENDERS[0]
    several = b"".join(
        request(sender.kind.path, *proven(sender, number=one)).replace(b"connection: close", b"connection: keep-alive")
        for one in range(50)
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    writer.write(several)
    assert [(await answer_of(reader))[0] for _ in range(50)] == [202] * 50
    writer.close()


# Foreign fields.


@pytest.mark.parametrize(
    ("where", "value", "field", "expected"),
    [
        ("deployment.payload", {"version": 241}, "revision", "241"),
        ("deployment.payload", {"version": 2.5}, "revision", "2.5"),
        ("deployment.payload", {"version": ["x"]}, "revision", "v2.4.1"),
        ("deployment.payload", {"version": True}, "revision", "v2.4.1"),
        ("deployment.payload", {"version": "x" * 300}, "revision", "x" * 255),
        ("deployment.payload", {"version": "2.4.1 (build\n7)"}, "revision", "2.4.1-(build-7)"),
        ("deployment.payload", {"kind": "Module_Upgrade"}, "kind", "module_upgrade"),
        ("deployment.payload", {"kind": "party"}, "kind", "release"),
        ("deployment.payload", {"tenants": "acme"}, "tenants", ("acme",)),
        ("deployment.payload", {"tenants": "ACME, birch"}, "tenants", ("acme", "birch")),
        ("deployment.payload", {"tenants": {"acme": 1}}, "tenants", ()),
        ("deployment.payload", {"approver": 7}, "approver", "7"),
        ("deployment.payload", '{"version": "\\ud800x"}', "revision", "\ufffdx"),
        ("deployment.payload", "[" * 10_000, "revision", "v2.4.1"),
        ("deployment.payload", 7, "revision", "v2.4.1"),
        ("deployment.environment", "EU1", "cell", "eu1"),
        ("deployment.environment", " Staging ", "cell", "us1"),
        ("deployment.id", None, "change_id", "github:acme/odoo:None"),
        ("deployment.id", 10**30, "change_id", "github:acme/odoo:1e+30"),
        ("deployment.ref", None, "revision", "2.4.1"),
        ("deployment.creator", "maria", "author", "ci"),
        ("deployment.task", ["rollback"], "status", "succeeded"),
        ("deployment_status.state", "SUCCESS", "status", "succeeded"),
        ("deployment_status.updated_at", "never", "time_ms", NOW_MS),
        ("deployment_status.updated_at", 1_759_999_999, "time_ms", 1_759_999_999_000),
        ("deployment_status.updated_at", {}, "time_ms", NOW_MS),
        ("deployment_status.target_url", "javascript:alert(1)", "url", None),
        ("deployment_status.target_url", 7, "url", None),
        ("repository", None, "service", "unknown"),
        ("repository", {"full_name": ["x"], "name": 7}, "service", "7"),
        ("sender", [], "author", "maria"),
    ],
)
def test_a_foreign_field_that_is_not_needed_costs_itself_only(
    where: str, value: Any, field: str, expected: Any
) -> None:
    data = BODIES["github"]("eu1", None, 42)
    *path, last = where.split(".")
    place = data
    for one in path:
        place = place[one]
    place[last] = value
    sender = next(one for one in SENDERS if one.kind.name == "github")
    body = json.dumps(data).encode()
    received = made(RECEIVERS["github"], OPEN).receive(Request(sender.prove(secret(1), body, "d"), body), NOW_MS)
    (change,) = received.records
    assert getattr(change, field) == expected


@pytest.mark.parametrize(
    ("more", "field", "expected"),
    [
        ({"revision": 241}, "revision", "241"),
        ({"status": "Succeeded"}, "status", "succeeded"),
        ({"kind": "RELEASE "}, "kind", "release"),
        ({"cell": "EU1"}, "cell", "eu1"),
        ({"tenants": "acme"}, "tenants", ("acme",)),
        ({"approver": None, "tenants": None, "time_ms": None}, "time_ms", NOW_MS),
        ({"author": 7}, "author", "7"),
    ],
)
def test_a_change_is_understood_in_other_spellings(more: dict[str, Any], field: str, expected: Any) -> None:
    body = json.dumps({**BODIES["change"]("eu1", None, 1), **more}).encode()
    received = made(RECEIVERS["change"], OPEN).receive(Request(bearer(secret(1), body, "d"), body), NOW_MS)
    assert getattr(received.records[0], field) == expected


# Everything else.

VALUES: list[Any] = [
    None, True, 0, -1, 241, 10**18, -(2**63), 2**63, 10**30, 1e308, -0.0, 1.5, "", " ", "x", "eu1", "acme", "us1", "zeta", "mars",
    "\x00", "\ud800", "\udfff\ud800", "é" * 300, "x" * 70_000, "\u202e", "2025-10-09T08:53:20Z", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59+23:59", "1e400", "NaN", "pilothouse.silence", "javascript:alert(1)", "https://a:b@c", "{}", "[", "%s%n",
    [], {}, [[]], [None], [{}], {"": ""}, ["acme"], [0] * 100, {"a": {"b": {"c": []}}}, [[[[[[[[]]]]]]]],
    'a{b="c', 'a{tenant.id="zeta"}', "a\n" * 1000, "a" * 999 + "{",
]  # fmt: skip
RAW = [b"", b"\xff", b"[", b"}", b"\\", b'"', b"\x00", b"1e999", b"9" * 400, b"NaN", b"[" * 2000, b"\\ud83d", b"{}"]


def mutated(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """The value with something hostile somewhere in it."""
    if rng.random() < 0.12 or depth > 6:
        return rng.choice(VALUES)
    if isinstance(value, dict) and value:
        made = dict(value)
        for name in rng.sample(list(made), min(len(made), rng.randint(1, 2))):
            action = rng.random()
            if action < 0.15:
                del made[name]
            elif action < 0.25:
                made[str(rng.choice(VALUES))[:500]] = made.pop(name)
            else:
                made[name] = mutated(rng, made[name], depth + 1)
        return made
    if isinstance(value, list) and value:
        return [mutated(rng, one, depth + 1) if rng.random() < 0.7 else one for one in value] * rng.choice(
            (1, 1, 1, 0, 2, 30)
        )
    return rng.choice(VALUES)


def drawn(rng: random.Random, sender: Sender) -> bytes:
    value = BODIES[sender.kind.name](
        rng.choice(("eu1", "us1", "mars")), rng.choice(("acme", "zeta", None)), rng.randrange(9)
    )
    if sender.kind.name == "events":
        record = rng.choice(list(records("eu1", "acme").values()))
        value = [{"type": record.type, "data": record.model_dump(mode="json")}]
    body = json.dumps(mutated(rng, value) if rng.random() < 0.95 else value).encode(errors="surrogatepass")
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        at = rng.randrange(len(body) + 1)
        body = body[:at] + rng.choice(RAW) + body[at + rng.choice((0, 1, 5)) :]
    return body


def outcomes(inputs: int, seed: int) -> dict[int, int]:
    """How many inputs ended with which status; everything that is not an answer is an error of the test."""
    rng, found = random.Random(seed), dict[int, int]()
    receivers = {kind.name: made(kind, OPEN, SCOPED) for kind in RECEIVERS.values()}
    for number in range(inputs):
        sender, key = rng.choice(SENDERS), rng.choice((1, 1, 1, 2))
        body = drawn(rng, sender)
        headers = sender.prove(secret(key), body, rng.choice(("", "a", "\ufffd", "x" * 4000)))
        if rng.random() < 0.1:
            headers[rng.choice(list(headers))] = str(rng.choice(VALUES)).encode(errors="replace").decode()
        try:
            received: Received = receivers[sender.kind.name].receive(Request(headers, body), NOW_MS)
            check_times(received.records, received.places, NOW_MS)
            for record in received.records:
                record.model_dump_json().encode()
                assert key == 1 or record.cell == "eu1"
            status = 202 if received.records else 200
        except Refused as refused:
            status = refused.status
            json.dumps({**refused.more, "detail": refused.detail}).encode()
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed} at {sender}: {body[:2000]!r}") from error
        found[status] = found.get(status, 0) + 1
    return found


def test_whatever_is_sent_is_answered() -> None:
    found = outcomes(5_000, seed=1)
    assert set(found) <= {200, 202, 400, 401, 403, 422}
    assert min(found.get(202, 0), found.get(400, 0), found.get(422, 0), found.get(401, 0), found.get(403, 0)) > 20, (
        found
    )


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_whatever_is_sent_half_a_million_times_is_answered(seed: int) -> None:
    assert set(outcomes(50_000, seed)) <= {200, 202, 400, 401, 403, 422}


GROWING: dict[str, Callable[[int], bytes]] = {
    "digits": lambda size: b'{"a": ' + b"7" * size + b"}",
    "backslashes": lambda size: b'{"a": "' + b"\\\\" * (size // 2) + b'"}',
    "halves": lambda size: b'["' + b"\\ud800" * (size // 6) + b'"]',
    "lists": lambda size: b"[" + b"[]," * (size // 3) + b"[]]",
    "objects": lambda size: b"[" + b'{"a":0},' * (size // 8) + b"{}]",
    "blanks": lambda size: b'{"a": "' + b" " * size + b'"}',
    "an open URL": lambda size: b'{"cell": "' + b"a://" * (size // 4) + b'"}',
    "open passwords": lambda size: b'{"cell": "' + b"password=" * (size // 9) + b'"}',
    "an open word": lambda size: b'{"cell": "' + b"a-" * (size // 2) + b'"}',
    "series": lambda size: json.dumps(
        {
            "type": Scrape.type,
            "data": {**records("eu1", None)[Scrape.type].model_dump(), "series": "a" + '{b="c",' * (size // 7)},
        }
    ).encode(),
    "scrape": lambda size: json.dumps(
        {"type": Scrape.type, "data": {**records("eu1", None)[Scrape.type].model_dump(), "series": "a\n" * (size // 2)}}
    ).encode(),
}


@pytest.mark.parametrize("shape", GROWING)
@pytest.mark.parametrize("sender", [one for one in SENDERS if one.is_signed], ids=str)
def test_no_body_takes_longer_than_its_size(sender: Sender, shape: str) -> None:
    receiver = made(sender.kind, OPEN)

    def cost_s(size: int) -> float:
        body = GROWING[shape](size)
        best = float("inf")
        for _ in range(2):
            begun = time.process_time()
            with suppress(Refused):
                receiver.receive(Request(sender.prove(secret(1), body, "d"), body), NOW_MS)
            best = min(best, time.process_time() - begun)
        return best

    small, large = cost_s(30_000), cost_s(480_000)
    assert large < 0.05 or large < 60 * max(small, 0.001), (small, large)
