"""The receivers behind their real server: who may send, what is taken, how errors read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from standardwebhooks import Webhook

from ingest.app import IngestSettings, ReceiverSettings, configured
from ingest.receivers.http import MAX_BODY_BYTES, Server
from ingest.references import ConfigurationError
from ingest.spool import Bounds, Row, Spool
from schemas.estate import Cell, Estate, Reference, Tenant
from schemas.records import Change, ChangeKind, ChangeStatus, OperationsEvent

NOW_MS = 1_760_000_000_000
OLD_KEY, KEY = ("whsec_" + base64.b64encode(bytes([number]) * 24).decode() for number in (1, 2))
ENVIRON = {"KEY": KEY, "OLD_KEY": OLD_KEY}

ESTATE = Estate(
    cells=(
        Cell(name="eu1", tenants=(Tenant(name="acme"),)),
        Cell(name="us1", tenants=(Tenant(name="zeta"),)),
        Cell(name="lab", environment="staging", tenants=(Tenant(name="lab"),)),
    )
)
CHANGE = {
    "cell": "eu1",
    "change_id": "release-241",
    "kind": "release",
    "status": "started",
    "service": "odoo",
    "revision": "2.4.1",
}
EVENT = {
    "cell": "eu1",
    "time_ms": NOW_MS,
    "resource": "carrier",
    "system": "edi",
    "name": "edi.partner.silent",
    "body": "No file from the carrier since 08:00.",
}
DEPLOYMENT = {
    "action": "created",
    "deployment_status": {
        "id": 7,
        "state": "success",
        "environment": "production",
        "target_url": "https://github.example/acme/odoo/actions/runs/1",
        "created_at": "2025-10-09T08:53:10Z",
        "updated_at": "2025-10-09T08:53:20Z",
        "creator": {"login": "ci"},
    },
    "deployment": {
        "id": 42,
        "sha": "a" * 40,
        "ref": "v2.4.1",
        "task": "deploy",
        "environment": "production",
        "payload": {"version": "2.4.1", "previous_version": "2.4.0", "tenants": ["acme"]},
        "creator": {"login": "maria"},
    },
    "repository": {"name": "odoo", "full_name": "acme/odoo"},
    "sender": {"login": "ci"},
}


@dataclass
class Client:
    """Sends to the server under test."""

    http: aiohttp.ClientSession
    url: str
    spool: Spool

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http.post(self.url + path, data=io.BytesIO(data), headers=headers) as response:
            assert response.status < 400 or response.content_type == "application/problem+json"
            return response.status, await response.json(content_type=None)

    async def kept(self) -> list[Row]:
        return await self.spool.advance([], max_bytes=2**30)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    spool = Spool(tmp_path / "spool.db", name="ingest", clock=lambda: NOW_MS, bounds=Bounds(max_records=20))
    await spool.open()
    keys = ReceiverSettings(keys=(Reference(env="KEY"), Reference(env="OLD_KEY")))
    server = Server(receivers(change=keys, github=keys, events=keys), spool, clock=lambda: NOW_MS)
    await server.start()
    async with aiohttp.ClientSession() as http:
        yield Client(http, f"http://127.0.0.1:{server.port}", spool)
    await server.stop()
    await spool.close()


def receivers(**settings: ReceiverSettings) -> Any:
    return configured(ESTATE, IngestSettings(spool=Path("unused"), kafka={}, receivers=settings), ENVIRON)[1]


def signed(body: Any, identifier: str = "msg_1", key: str = KEY, at_ms: int = NOW_MS) -> dict[str, str]:
    moment = datetime.fromtimestamp(at_ms // 1000, UTC)
    text = body.decode() if isinstance(body, bytes) else json.dumps(body)
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": Webhook(key).sign(identifier, moment, text),
    }


def github(body: Any, delivery: str = "d-1", event: str = "deployment_status", key: str = KEY) -> dict[str, str]:
    digest = hmac.new(key.encode(), json.dumps(body).encode(), hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Event": event, "X-GitHub-Delivery": delivery}


BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize("headers", [signed(CHANGE), signed(CHANGE, key=OLD_KEY), BEARER])
async def test_a_change_is_taken_when_it_is_on_disk(client: Client, headers: dict[str, str]) -> None:
    assert await client.post("/v1/changes", CHANGE, headers) == (202, {"accepted": 1, "duplicates": 0})
    (row,) = await client.kept()
    change = Change.model_validate_json(row.value)
    assert (row.topic, row.key, change.revision, change.origin) == ("events.change.v1", "eu1", "2.4.1", "generic")
    assert change.time_ms == NOW_MS


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, "send a bearer token in Authorization"),
        ({"Authorization": "Bearer " + "x" * 40}, "must be Bearer with a key"),
        ({"Authorization": "Basic " + KEY}, "must be Bearer with a key"),
        (signed(CHANGE, key="whsec_" + base64.b64encode(b"9" * 24).decode()), "webhook-signature: it does not fit"),
        (signed({**CHANGE, "revision": "6.6.6"}), "webhook-signature: it does not fit"),
        ({**signed(CHANGE), "webhook-id": "msg_2"}, "webhook-signature: it does not fit"),
        ({**signed(CHANGE), "webhook-signature": "v1,%%%"}, "webhook-signature: it does not fit"),
        ({**signed(CHANGE), "webhook-timestamp": "soon"}, "webhook-timestamp: 'soon' must be Unix seconds"),
        (signed(CHANGE, at_ms=NOW_MS - 301_000), "must be within 5 minutes"),
        (signed(CHANGE, at_ms=NOW_MS + 301_000), "must be within 5 minutes"),
    ],
)
async def test_who_does_not_prove_who_sent_it_is_refused(client: Client, headers: dict[str, str], told: str) -> None:
    status, problem = await client.post("/v1/changes", CHANGE, headers)
    assert status == problem["status"] == 401
    assert told in problem["detail"]
    assert KEY not in json.dumps(problem)
    assert await client.kept() == []


async def test_a_second_delivery_is_answered_and_not_published_again(client: Client) -> None:
    assert (await client.post("/v1/changes", CHANGE, signed(CHANGE, "msg_1")))[0] == 202
    assert await client.post("/v1/changes", CHANGE, signed(CHANGE, "msg_1")) == (200, {"accepted": 0, "duplicates": 1})
    assert (await client.post("/v1/changes", CHANGE, signed(CHANGE, "msg_2")))[0] == 202
    assert len(await client.kept()) == 2


async def test_a_body_over_the_limit_is_refused_naming_it(client: Client) -> None:
    assert (await client.post("/v1/changes", b" " * MAX_BODY_BYTES, BEARER))[0] == 400  # read, but no JSON
    status, problem = await client.post("/v1/changes", b" " * (MAX_BODY_BYTES + 1), BEARER)
    assert (status, problem["detail"]) == (
        413,
        "the body is larger than 1048576 bytes (1 MiB); send it in parts",
    )


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "send JSON"),
        (b"\xff", 400, "no UTF-8"),
        (b'{"a": NaN}', 400, "NaN is no JSON"),
        (b"[" * 100_000, 400, "send JSON"),
        ([], 422, "a change is a JSON object"),
        ({**CHANGE, "status": "done"}, 422, "status: Input should be 'started', 'succeeded', 'failed' or"),
        ({**CHANGE, "colour": "red"}, 422, "colour: Extra inputs are not permitted, got 'red'"),
        ({**CHANGE, "cell": "mars"}, 422, "cell: 'mars' is wrong; cells of this estate are eu1, lab, us1"),
        ({**CHANGE, "revision": "\ud800"}, 422, "revision"),
        ({**CHANGE, "time_ms": NOW_MS + 400_000}, 422, "must be at most 5 minutes ahead"),
        ({**CHANGE, "time_ms": 5}, 422, "must be at most 35 days back"),
    ],
)
async def test_what_is_not_understood_is_named(client: Client, body: Any, status: int, told: str) -> None:
    got, problem = await client.post("/v1/changes", body, BEARER)
    assert got == status, problem
    assert told in problem["detail"]
    assert await client.kept() == []


async def test_each_faulty_field_stands_by_itself(client: Client) -> None:
    _, problem = await client.post("/v1/changes", {**CHANGE, "kind": "party", "service": ""}, BEARER)
    assert [(fault["field"], fault["value"]) for fault in problem["errors"]] == [("kind", "party"), ("service", "")]


async def test_unknown_paths_and_methods_are_problems_too(client: Client) -> None:
    status, problem = await client.post("/v1/nothing", {})
    assert (status, problem["title"]) == (404, "Not Found")
    async with client.http.get(client.url + "/v1/changes") as response:
        assert (response.status, response.content_type) == (405, "application/problem+json")


async def test_a_full_spool_asks_to_come_again_and_is_not_ready(client: Client) -> None:
    events = [{"type": OperationsEvent.type, "data": EVENT}] * 20
    assert (await client.post("/v1/events", events, BEARER))[0] == 202
    async with client.http.post(client.url + "/v1/changes", json=CHANGE, headers=BEARER) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "10")
    async with client.http.get(client.url + "/readyz") as response:
        assert (response.status, (await response.json())["status"]) == (503, "full")
    async with client.http.get(client.url + "/healthz") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("pending", "started"),
        ("queued", "started"),
        ("in_progress", "started"),
        ("success", "succeeded"),
        ("failure", "failed"),
        ("error", "failed"),
    ],
)
async def test_states_of_a_github_deployment(client: Client, state: str, status: str) -> None:
    body = {**DEPLOYMENT, "deployment_status": {**DEPLOYMENT["deployment_status"], "state": state}}  # type: ignore[dict-item]
    assert await client.post("/v1/changes/github", body, github(body)) == (202, {"accepted": 2, "duplicates": 0})
    changes = [Change.model_validate_json(row.value) for row in await client.kept()]
    assert [(change.cell, change.status) for change in changes] == [("eu1", status), ("us1", status)]


async def test_a_github_deployment_says_what_was_deployed_where_and_by_whom(client: Client) -> None:
    await client.post("/v1/changes/github", DEPLOYMENT, github(DEPLOYMENT))
    change = Change.model_validate_json((await client.kept())[0].value)
    assert change == Change(
        cell="eu1",
        time_ms=1_760_000_000_000,
        change_id="github:acme/odoo:42",
        kind=ChangeKind.RELEASE,
        status=ChangeStatus.SUCCEEDED,
        service="odoo",
        revision="2.4.1",
        previous_revision="2.4.0",
        tenants=("acme",),
        author="maria",
        environment="production",
        url="https://github.example/acme/odoo/actions/runs/1",
        origin="github",
    )


@pytest.mark.parametrize(
    ("deployment", "cell", "status", "revision"),
    [
        ({"task": "rollback", "environment": "lab"}, "lab", "rolled_back", "2.4.1"),
        ({"environment": "staging", "payload": ""}, "lab", "succeeded", "v2.4.1"),
        ({"environment": "staging", "payload": "", "ref": ""}, "lab", "succeeded", "a" * 40),
        ({"environment": "us1", "payload": '{"version": "9.9"}'}, "us1", "succeeded", "9.9"),
    ],
)
async def test_environment_task_and_payload_of_a_deployment(
    client: Client, deployment: dict[str, str], cell: str, status: str, revision: str
) -> None:
    body = {**DEPLOYMENT, "deployment": {**DEPLOYMENT["deployment"], **deployment}}  # type: ignore[dict-item]
    assert (await client.post("/v1/changes/github", body, github(body)))[0] == 202
    (change,) = [Change.model_validate_json(row.value) for row in await client.kept()]
    assert (change.cell, change.status, change.revision) == (cell, status, revision)


async def test_github_is_refused_unsigned_and_told_what_is_unknown(client: Client) -> None:
    forged = github(DEPLOYMENT, key="whsec_other-and-long-enough")
    assert (await client.post("/v1/changes/github", DEPLOYMENT, forged))[0] == 401
    assert (await client.post("/v1/changes/github", DEPLOYMENT, BEARER))[0] == 401
    body = {**DEPLOYMENT, "deployment": {**DEPLOYMENT["deployment"], "environment": "moon"}}  # type: ignore[dict-item]
    status, problem = await client.post("/v1/changes/github", body, github(body))
    assert (status, problem["field"], problem["value"]) == (422, "deployment.environment", "moon")
    assert (await client.post("/v1/changes/github", {}, github({})))[0] == 422


async def test_github_redelivers_without_effect_and_other_events_are_ignored(client: Client) -> None:
    assert (await client.post("/v1/changes/github", DEPLOYMENT, github(DEPLOYMENT)))[0] == 202
    assert (await client.post("/v1/changes/github", DEPLOYMENT, github(DEPLOYMENT)))[0] == 200
    status, answer = await client.post("/v1/changes/github", {"zen": "x"}, github({"zen": "x"}, event="ping"))
    assert (status, answer["ignored"]) == (200, "event ping is not read; deployment_status is")
    assert len(await client.kept()) == 2


def cloud_event(identifier: str, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": OperationsEvent.type,
        "source": "/edi/gateway",
        "id": identifier,
        "data": {**EVENT, **data},
    }


async def test_a_batch_of_cloud_events_is_taken_once_each(client: Client) -> None:
    batch = [cloud_event("1"), cloud_event("2")]
    assert await client.post("/v1/events", batch, signed(batch, "a")) == (202, {"accepted": 2, "duplicates": 0})
    batch = [cloud_event("2"), cloud_event("3")]
    assert await client.post("/v1/events", batch, signed(batch, "b")) == (202, {"accepted": 1, "duplicates": 1})
    assert {row.topic for row in await client.kept()} == {"events.operations.v1"}


async def test_of_a_batch_with_one_faulty_event_nothing_is_taken(client: Client) -> None:
    for faulty, told in [
        (cloud_event("2", severity_number=99), "events.1.data: severity_number: Input should be less than or equal"),
        ({**cloud_event("2"), "type": "com.pilothouse.signal.v1"}, "events.1.type: 'com.pilothouse.signal.v1' is"),
        (cloud_event("2", cell="mars"), "events.1.data.cell: 'mars' is wrong"),
        ("text", "events.1: 'text' is wrong"),
    ]:
        status, problem = await client.post("/v1/events", [cloud_event("1"), faulty], BEARER)
        assert status == 422
        assert told in problem["detail"]
    assert await client.kept() == []


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "receiver change: key: the environment variable KEY is not set; set it to the value"),
        ({"KEY": "short"}, "receiver change: a key needs at least 16 characters"),
        ({"KEY": "whsec_%%%%%%%%%%%%%"}, "receiver change: a key that starts with whsec_ goes on in base64"),
    ],
)
def test_a_receiver_without_a_usable_key_does_not_start(environ: dict[str, str], told: str) -> None:
    keys = {"change": ReceiverSettings(keys=(Reference(env="KEY"),))}
    settings = IngestSettings(spool=Path("unused"), kafka={}, receivers=keys)
    with pytest.raises(ConfigurationError, match=told):
        configured(ESTATE, settings, environ)


def test_every_fault_of_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    keys = {
        "fax": ReceiverSettings(keys=(Reference(env="KEY"),)),
        "github": ReceiverSettings(keys=(Reference(file=str(tmp_path / "absent")),)),
    }
    settings = IngestSettings(spool=Path("unused"), kafka={}, receivers=keys)
    with pytest.raises(ConfigurationError) as told:
        configured(ESTATE, settings, ENVIRON)
    first, second = str(told.value).splitlines()
    assert first == "receiver 'fax' is unknown; known are change, events, github"
    assert second.startswith(f"receiver github: key: the file {tmp_path / 'absent'} cannot be read")
