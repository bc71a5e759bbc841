"""The embedded servers: they talk, they remember, they die with the program, and they say what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis.asyncio as redis_client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from redis.exceptions import AuthenticationError

from pilothouse.running import with_running
from pilothouse.services import kafka_jars
from pilothouse.services.child import DataDirError, FetchError, PortInUseError, StartError, free_port
from pilothouse.services.stack import STORE, Stack
from pilothouse.services.valkey import Valkey
from pilothouse.settings import KafkaSettings, Settings

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only what root starts runs as another user")
LONG_AGO_MS = 1_600_000_000_000  # 2020
DEATH_TIMEOUT_S = 10


@pytest.fixture
def own_settings(embedded_settings: Settings) -> Iterator[Settings]:
    """Settings with a data directory of this test, for stacks of its own."""
    directory = Path(tempfile.mkdtemp(prefix="pilothouse-test-"))
    directory.chmod(0o711)
    yield embedded_settings.model_copy(update={"data_dir": directory})
    shutil.rmtree(directory)


async def test_each_server_answers_its_own_client(kafka: str, database_url: str, redis_url: str) -> None:
    await write_kafka(kafka, "answers", b"one")
    assert await read_kafka(kafka, "answers") == [b"one"]
    assert await query(database_url, "SELECT 1") == 1
    assert await ping(redis_url)


async def test_records_of_years_ago_are_kept(kafka: str) -> None:
    await write_kafka(kafka, "old", b"old", timestamp_ms=LONG_AGO_MS)
    assert await read_kafka(kafka, "old") == [b"old"]


async def test_data_and_ports_survive_stop_and_crash(own_settings: Settings) -> None:
    stack = Stack(own_settings, valkey=[STORE])
    async with stack:
        urls = [child.url for child in stack.children]
        await write_everywhere(stack)
    async with stack:
        assert [child.url for child in stack.children] == urls
        assert await read_everywhere(stack) == ([b"kept"], 7, b"kept")
        for child in stack.children:
            await child.kill()
            assert not child.running
            await child.start()
        assert [child.url for child in stack.children] == urls
        assert await read_everywhere(stack) == ([b"kept"], 7, b"kept")


async def test_instances_of_one_stack_are_independent(own_settings: Settings) -> None:
    parameters = {"max_connections": "17", "log_lock_waits": "on"}
    directives = {"maxmemory": "8mb", "requirepass": 'a "b" c@'}
    stack = Stack(
        own_settings, kafka=False, postgres={"acme": parameters, "eu": {}}, valkey={"acme": directives, "eu": {}}
    )
    async with stack:
        assert len({child.port for child in stack.children}) == 4
        await query(stack.postgres["acme"].url, "CREATE TABLE only_here ()")
        assert await query(stack.postgres["eu"].url, "SELECT to_regclass('only_here')") is None
        assert await query(stack.postgres["acme"].url, "SHOW max_connections") == "17"
        assert await query(stack.postgres["acme"].url, "SHOW track_io_timing") == "on"
        assert await ping(stack.valkey["acme"].url)
        assert all(child.pss_mib > 1 for child in stack.children)


async def test_query_statistics_are_loaded(database_url: str) -> None:
    await query(database_url, "CREATE EXTENSION pg_stat_statements")
    assert await query(database_url, "SELECT count(*) FROM pg_stat_statements") is not None


async def test_services_json_tells_the_urls_to_us_alone(own_settings: Settings) -> None:
    file = own_settings.data_dir / "services.json"
    async with Stack(own_settings, kafka=False) as stack:
        assert json.loads(file.read_text()) == {"postgres/store": stack.settings.database_url}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()


async def test_data_and_logs_are_closed_to_other_users(own_settings: Settings) -> None:
    async with Stack(own_settings, kafka=False, valkey=[STORE]) as stack:
        private = [child.home for child in stack.children] + [stack.data_dir / "logs"]
        assert {stat.S_IMODE(directory.stat().st_mode) for directory in private} == {0o700}


async def test_a_url_takes_the_place_of_an_embedded_server(own_settings: Settings) -> None:
    external = {"kafka": KafkaSettings(bootstrap="broker:9092"), "database_url": "postgresql://u:p@db/x"}
    async with Stack(own_settings.model_copy(update=external), valkey=[STORE]) as stack:
        assert [child.name for child in stack.children] == ["valkey/store"]
        assert stack.settings.database_url == "postgresql://u:p@db/x"
        assert stack.settings.redis_url == stack.valkey[STORE].url


async def test_a_second_stack_on_the_same_directory_is_refused(own_settings: Settings) -> None:
    async with Stack(own_settings, kafka=False, postgres=(), valkey=[STORE]) as first:
        second = Stack(own_settings, kafka=False, postgres=(), valkey=[STORE])
        with pytest.raises(DataDirError, match=f"is in use by process {os.getpid()}; stop that, or choose another"):
            await second.up()
        assert await ping(first.valkey[STORE].url)


async def test_a_port_taken_meanwhile_is_named_with_its_holder(own_settings: Settings) -> None:
    stack = Stack(own_settings, kafka=False, postgres=(), valkey=[STORE])
    async with stack:
        port = stack.valkey[STORE].port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(PortInUseError, match=rf"port {port} .* process {os.getpid()} .* delete .*/port"):
            await stack.up()
    async with stack:
        assert stack.valkey[STORE].port == port


async def test_a_failed_start_shows_the_log_and_leaves_nothing_running(own_settings: Settings) -> None:
    stack = Stack(own_settings, kafka=False, postgres={STORE: {"shared_buffers": "much"}}, valkey=[STORE])
    with pytest.raises(StartError, match=r'postgres/store ended with 1(?s:.*)"shared_buffers": "much"'):
        await stack.up()
    assert not any(child.running for child in stack.children)


@AS_ROOT
async def test_a_directory_out_of_reach_of_the_servers_is_named(own_settings: Settings) -> None:
    inner = own_settings.model_copy(update={"data_dir": own_settings.data_dir / "closed" / "data"})
    inner.data_dir.parent.mkdir(mode=0o700)
    with pytest.raises(DataDirError, match=f"`chmod o\\+x {inner.data_dir.parent}`"):
        await Stack(inner, kafka=False).up()


async def test_nobody_without_its_password_uses_a_server(own_settings: Settings) -> None:
    """Loopback is open to every user of the machine."""
    async with Stack(own_settings, valkey=[STORE]) as stack:
        assert stack.kafka
        host = f"127.0.0.1:{stack.kafka.port}"
        kafka: dict[str, Any] = {"bootstrap_servers": host, "request_timeout_ms": 5_000}
        sasl = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "pilothouse"}
        for wrong in ({}, sasl | {"sasl_plain_password": "guessed"}):
            admin = AIOKafkaAdminClient(**kafka, **wrong)
            with pytest.raises(KafkaError):
                await admin.start()
            await admin.close()
        for password in ("", ":guessed@"):
            async with redis_client.Redis.from_url(f"redis://{password}127.0.0.1:{stack.valkey[STORE].port}") as client:
                with pytest.raises((AuthenticationError, redis_client.ResponseError)):
                    await client.ping()
        for password in ("", "guessed"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(
                    host="127.0.0.1", port=stack.postgres[STORE].port, user="postgres", password=password
                )
        assert await controller_refuses(controller_port(stack.kafka.home / "server.properties"))
        held = {path.name: path for path in own_settings.data_dir.rglob("*") if path.is_file()}
        for secret in ("password", "server.properties", "valkey.conf", "services.json", "lock"):
            assert stat.S_IMODE(held[secret].stat().st_mode) == 0o600, secret
        shown = json.dumps([process.cmdline() for child in stack.children for process in [psutil.Process(child.pid)]])
        for child in stack.children:
            assert (child.home / "password").read_text() not in shown


def controller_port(properties: Path) -> int:
    lines = properties.read_text().splitlines()
    return next(int(line.rpartition(":")[2]) for line in lines if line.startswith("controller.quorum"))


async def controller_refuses(port: int) -> bool:
    """Whether the controller's port answers nothing to a client that has not proven itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = (3).to_bytes(2) + (9).to_bytes(2) + (1).to_bytes(4) + (0xFFFF).to_bytes(2) + b"\0\0\0\0"  # Metadata
    writer.write(len(request).to_bytes(4) + request)
    answer = await asyncio.wait_for(reader.read(100), 10)
    writer.close()
    return answer == b""


def groups_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("Groups:"))


def nobody_lists(directory: Path) -> bool:
    done = subprocess.run(["ls", str(directory)], user="nobody", group="nogroup", extra_groups=[], check=False)
    return done.returncode == 0


def give_to(home: Path, owner: str) -> None:
    subprocess.run(["chown", "-R", owner, str(home)], check=True)


@AS_ROOT
async def test_servers_that_root_starts_run_as_a_user_of_their_own(own_settings: Settings) -> None:
    async with Stack(own_settings, valkey=[STORE]) as stack:
        assert stack.user
        assert stack.user.name == "pilothouse"
        for child in stack.children:
            process = psutil.Process(child.pid)
            assert set(process.uids()) == {stack.user.uid}
            assert set(process.gids()) == {stack.user.gid}
            assert groups_of(child.pid) == ""
            assert child.home.stat().st_uid == stack.user.uid
        assert stat.S_IMODE(own_settings.data_dir.stat().st_mode) == 0o710
    assert not nobody_lists(own_settings.data_dir / "kafka")


@AS_ROOT
async def test_a_directory_of_the_version_before_still_starts(own_settings: Settings) -> None:
    """It belonged to root and to the shared user, was open to passers-by, and its broker and Valkey had no password."""
    stack = Stack(own_settings, valkey=[STORE], open_kafka=True)
    async with stack:
        await write_everywhere(stack)
    assert stack.kafka
    for home, owner in (
        (stack.kafka.home, "root"),
        (stack.valkey[STORE].home, "root"),
        (stack.postgres[STORE].home, "nobody"),
    ):
        give_to(home, owner)
    for file in (
        stack.kafka.home / "password",
        stack.valkey[STORE].home / "password",
        stack.kafka.home / "server.properties",
    ):
        file.unlink()
    own_settings.data_dir.chmod(0o711)
    again = Stack(own_settings, valkey=[STORE])
    async with again:
        assert await read_everywhere(again) == ([b"kept"], 7, b"kept")
    assert stat.S_IMODE(own_settings.data_dir.stat().st_mode) == 0o710


async def test_a_directory_that_holds_other_things_is_not_closed(own_settings: Settings) -> None:
    (own_settings.data_dir / "mine.txt").write_text("x")
    before = own_settings.data_dir.stat().st_mode
    async with Stack(own_settings, kafka=False, postgres=(), valkey=[STORE]):
        assert own_settings.data_dir.stat().st_mode == before


async def test_a_command_beside_the_servers_finds_them(own_settings: Settings) -> None:
    """The environment names nothing; what a program runs with the same data directory is taken, while it runs."""
    bare = own_settings.model_copy(update={"kafka": None})
    assert with_running(bare) == bare
    async with Stack(own_settings, valkey=[STORE]) as stack:
        found = with_running(bare)
        assert found.database_url == stack.settings.database_url
        assert found.kafka
        assert stack.settings.kafka
        assert found.kafka.aiokafka_options() == stack.settings.kafka.aiokafka_options()
        await write_kafka(found.kafka, "found", b"x")
        named = bare.model_copy(update={"kafka": KafkaSettings(bootstrap="elsewhere:1")})
        assert with_running(named).kafka == named.kafka
        default = own_settings.model_copy(update={"data_dir": own_settings.data_dir.parent / "nowhere"})
        assert with_running(default) == default
    assert with_running(bare) == bare
    (own_settings.data_dir / "services.json").write_text('{"kafka": "127.0.0.1:1"}')
    assert with_running(bare) == bare  # nobody holds the lock: that is of a program that was killed


async def test_children_die_with_a_program_that_is_killed(own_settings: Settings) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD_A_STACK, own_settings.model_dump_json(), stdout=subprocess.PIPE
    )
    assert program.stdout
    pids = json.loads(await program.stdout.readline())
    children = [psutil.Process(pid) for pid in pids]
    program.send_signal(signal.SIGKILL)
    await program.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, DEATH_TIMEOUT_S)
    assert not alive
    async with Stack(own_settings, kafka=False, valkey=[STORE]) as stack:
        assert await query(stack.postgres[STORE].url, "SELECT 1") == 1


HOLD_A_STACK = """
import asyncio, json, sys
from pilothouse.services.stack import Stack
from pilothouse.settings import Settings

async def hold():
    async with Stack(Settings.model_validate_json(sys.argv[1]), kafka=False, valkey=["store"]) as stack:
        print(json.dumps([child.pid for child in stack.children]), flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


async def test_an_orphan_of_an_earlier_run_is_stopped_first(own_settings: Settings) -> None:
    home, logs = own_settings.data_dir / "valkey" / "x", own_settings.data_dir / "logs"
    orphan = Valkey("x", home, logs, {})
    await orphan.start()
    heir = Valkey("x", home, logs, {})
    await heir.start()
    try:
        assert not orphan.running
        assert heir.port == orphan.port
    finally:
        await orphan.stop()
        await heir.stop()


async def test_the_logs_of_five_earlier_starts_are_kept(own_settings: Settings) -> None:
    valkey = Valkey("x", own_settings.data_dir / "valkey", own_settings.data_dir / "logs", {})
    for _ in range(7):
        await valkey.restart()
    await valkey.stop()
    assert len(list(valkey.log.parent.iterdir())) == 6


def test_a_failed_download_names_the_artefact_and_the_way_round(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(FetchError, match=r"org\.slf4j:slf4j-api:1\.7\.36 could not be fetched.*PILOTHOUSE_KAFKA_JARS"):
        kafka_jars.fetched(tmp_path, pins("slf4j-api"), {"nobody": nobody})


def test_a_jar_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slf4j-api-1.7.36.jar").write_text("not a jar")
    with pytest.raises(FetchError, match=r"slf4j-api-1\.7\.36\.jar has sha256 .*, pinned is d3ef575e"):
        kafka_jars.given(tmp_path, pins("slf4j-api"))


def test_an_offline_directory_that_lacks_a_jar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"has no slf4j-api-1\.7\.36\.jar"):
        kafka_jars.given(tmp_path, pins("slf4j-api"))


def pins(artifact: str) -> list[kafka_jars.Jar]:
    return [jar for jar in kafka_jars.pinned() if jar.artifact == artifact]


async def write_everywhere(stack: Stack) -> None:
    assert stack.kafka
    await write_kafka(stack.kafka.settings, "kept", b"kept")
    await query(stack.postgres[STORE].url, "CREATE TABLE kept AS SELECT 7 AS value")
    async with redis_client.Redis.from_url(stack.valkey[STORE].url) as client:
        await client.set("kept", "kept")


async def read_everywhere(stack: Stack) -> tuple[list[bytes | None], object, object]:
    assert stack.kafka
    async with redis_client.Redis.from_url(stack.valkey[STORE].url) as client:
        cached = await client.get("kept")
    stored = await query(stack.postgres[STORE].url, "SELECT value FROM kept")
    return await read_kafka(stack.kafka.settings, "kept"), stored, cached


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def ping(url: str) -> bool:
    async with redis_client.Redis.from_url(url) as client:
        return bool(await client.ping())


async def write_kafka(kafka: str | KafkaSettings, topic: str, value: bytes, timestamp_ms: int | None = None) -> None:
    options = options_of(kafka)
    admin = AIOKafkaAdminClient(**options)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(**options) as producer:
        await producer.send_and_wait(topic, value, timestamp_ms=timestamp_ms)


def options_of(kafka: str | KafkaSettings) -> dict[str, Any]:
    """aiokafka's arguments for a broker that asks for no password, or for one that does."""
    return {"bootstrap_servers": kafka} if isinstance(kafka, str) else kafka.aiokafka_options()


async def read_kafka(kafka: str | KafkaSettings, topic: str) -> list[bytes | None]:
    partition = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(**options_of(kafka), auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        consumer.seek(partition, 0)
        end = (await consumer.end_offsets([partition]))[partition]
        records = [await consumer.getone() for _ in range(end)]
    return [record.value for record in records]
