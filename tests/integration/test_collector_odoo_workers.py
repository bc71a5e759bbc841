"""The collector of Odoo's workers at a real kernel: a prefork server with the shape of Odoo's, and a recorded /proc."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.collector import Target, Unavailable
from ingest.collectors.odoo_workers import OdooWorkers
from pilothouse.services.child import free_port
from schemas.estate import Cell, Resource, Tenant
from tests.support.collected import points
from tests.support.golden import GOLDEN, agrees, told

NOW_MS = 1_795_000_000_000

# As odoo/service/server.py does it: the master listens, each worker waits in select, accepts one connection and serves it.
PREFORK = """
import os, select, socket, sys, time
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setblocking(False); listener.bind(("127.0.0.1", int(sys.argv[1]))); listener.listen(16)
def http():
    while True:
        select.select([listener], [], [], 4)
        try: client, _ = listener.accept()
        except BlockingIOError: continue
        client.setblocking(True); client.recv(100); client.sendall(b"done"); client.close()
def cron():
    os.nice(10); listener.close(); time.sleep(60)
for work in (http, http, cron):
    if os.fork() == 0: work()
print("ready", flush=True)
os.wait()
"""


def collector(**options: Any) -> OdooWorkers:
    resource = Resource(name="workers-1", system="odoo_workers", options=options)
    return OdooWorkers(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),), resources=(resource,)), resource, ""))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, str]]:
    program, port = tmp_path / "odoo-bin", free_port()
    program.write_text(PREFORK)
    with subprocess.Popen(
        [sys.executable, str(program), str(port)], stdout=subprocess.PIPE, start_new_session=True
    ) as master:
        assert master.stdout is not None
        assert master.stdout.readline() == b"ready\n"
        yield port, str(program)
        os.killpg(master.pid, 9)


def ask(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


async def seen(one: OdooWorkers, busy: float, waiting: float) -> dict[str, float | None]:
    """A look that shows so many; the workers need a moment to take what has come."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = points(await one.collect(NOW_MS, None))
        now = found['odoo.worker.busy{odoo.worker.type="http"}'], found['odoo.worker.waiting{odoo.worker.type="http"}']
        if now == (busy, waiting):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"busy, waiting: {now}")


async def test_busy_workers_and_who_waits_for_one_are_seen_from_outside(server: tuple[int, str]) -> None:
    port, program = server
    one = collector(http_port=port, gevent_port=free_port(), command=program)
    idle = await seen(one, 0, 0)
    assert idle['odoo.worker.count{odoo.worker.type="http"}'] == 2
    assert idle['odoo.worker.count{odoo.worker.type="cron"}'] == 1
    files, most = (idle[f'odoo.worker.{name}{{odoo.worker.type="http"}}'] for name in ("files", "files.max"))
    assert 3 <= (files or 0) < (most or 0)
    clients = [ask(port) for _ in range(5)]
    await seen(one, 2, 3)
    for client in clients:
        client.sendall(b"x")
    await seen(one, 0, 0)
    for client in clients:
        assert client.recv(10) == b"done"
        client.close()


async def test_without_a_server_the_look_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match=r"workers-1: no Odoo server .* options http_port"):
        await collector(http_port=free_port(), command="/no/such/odoo-bin").collect(NOW_MS, None)


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
TCP = (
    (8069, 0x0A, 3, 500),  # listens, and three wait
    (8069, 0x01, 0, 501),  # served
    (8069, 0x08, 0, 502),  # served, though the client has gone
    (8069, 0x01, 70, 0),  # one of those that wait
    (8069, 0x06, 0, 0),  # over
    (8072, 0x0A, 0, 600),
    (8072, 0x01, 0, 601),
    (5432, 0x01, 0, 700),
)


def recorded(proc: Path, *, started: int = 100) -> None:
    """A /proc with two Odoo servers, one of which sets its titles."""
    rows = [f"   0: 0100007F:{at:04X} 00000000:0000 {state:02X} 00000000:{queue:08X} 00:0 0 0 0 {inode} 1" for at, state, queue, inode in TCP]  # fmt: skip
    (proc / "net").mkdir(parents=True, exist_ok=True)
    (proc / "net" / "tcp").write_text("\n".join([HEAD, *rows]) + "\n")
    plain = ["/usr/bin/python3", "/usr/bin/odoo", "-c", "/etc/odoo/one.conf"]
    for pid, parent, niceness, command in (
        (10, 1, 0, plain),
        (11, 10, 0, plain),
        (12, 10, 10, plain),
        (13, 10, 0, [plain[0], plain[1], "gevent", *plain[2:]]),
        (20, 1, 0, ["/opt/odoo/odoo-bin", "-c", "/etc/odoo/two.conf"]),
        (21, 20, 0, ["odoo: WorkerHTTP 21 "]),
        (22, 20, 0, ["odoo: WorkerCron 22 acme"]),
        (30, 1, 0, ["/usr/bin/postgres"]),
    ):
        place = proc / str(pid)
        place.mkdir(exist_ok=True)
        fields = ["S", str(parent), *["0"] * 14, str(niceness), "1", "0", str(started)]
        (place / "stat").write_text(f"{pid} (a (b) c) {' '.join(fields)} 0 0\n")
        (place / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))


async def test_a_look_at_a_recorded_proc(tmp_path: Path) -> None:
    recorded(tmp_path)
    one = collector(proc=str(tmp_path))
    first = await one.collect(NOW_MS, None)
    recorded(tmp_path, started=200)
    second = await one.collect(NOW_MS + 15_000, None)
    agrees(told([*first.records, *second.records]), GOLDEN / "odoo_workers" / "look.txt")


async def test_one_of_several_servers_is_found_by_its_command_line(tmp_path: Path) -> None:
    recorded(tmp_path)
    found = points(await collector(proc=str(tmp_path), command="two.conf").collect(NOW_MS, None))
    counts = {name: found[f'odoo.worker.count{{odoo.worker.type="{name}"}}'] for name in ("http", "cron", "gevent")}
    assert counts == {"http": 1, "cron": 1, "gevent": 0}
