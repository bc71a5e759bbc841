"""What a stranger writes into /proc costs its own entry: the workers are seen all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.collector import Target, Unavailable
from ingest.collectors.odoo_workers import OdooWorkers, port
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.series import parse
from tests.support.collected import points

NOW_MS = 1_795_000_000_000
STAT = "{pid} ({name}) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 {nice} 1 0 {started} 0 0"
LISTENS = "   0: 0100007F:1F85 00000000:0000 0A 00000000:00000002 00:00000000 00000000   0   0 4711"


def collector(proc: Path) -> OdooWorkers:
    resource = Resource(name="workers", system="odoo_workers", options={"proc": str(proc)})
    return OdooWorkers(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),), resources=(resource,)), resource, ""))


def process(proc: Path, pid: int, parent: int, command: bytes, *, name: bytes = b"odoo", nice: int = 0) -> Path:
    place = proc / str(pid)
    place.mkdir()
    stat = STAT.format(pid=pid, name="NAME", parent=parent, nice=nice, started=pid).encode().replace(b"NAME", name)
    (place / "stat").write_bytes(stat)
    (place / "cmdline").write_bytes(command)
    return place


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A master with two HTTP workers and a cron worker."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(f"  sl local_address\n{LISTENS}\n")
    process(tmp_path, 10, 1, b"python\0/opt/odoo-bin\0")
    process(tmp_path, 11, 10, b"python\0/opt/odoo-bin\0")
    process(tmp_path, 12, 10, b"python\0/opt/odoo-bin\0")
    process(tmp_path, 13, 10, b"python\0/opt/odoo-bin\0", nice=10)
    return tmp_path


async def seen(proc: Path) -> dict[str, float | None]:
    found = points(await collector(proc).collect(NOW_MS, None))
    assert {parse(series).name for series in found} <= set(BY_NAME)
    assert found['odoo.worker.count{odoo.worker.type="http"}'] == 2
    assert found['odoo.worker.count{odoo.worker.type="cron"}'] == 1
    return found


async def test_a_name_that_is_no_utf_8_or_holds_parentheses_hides_nobody(proc: Path) -> None:
    process(proc, 20, 1, b"x\0", name=b"caf\xe9 \xff")
    process(proc, 21, 1, b"x\xff\0", name=b") S 10 (\n")
    assert (await seen(proc))["odoo.worker.unreadable"] == 0


@pytest.mark.parametrize(
    "stat",
    [b"", b"20", b"20 (x", b"20 (x) S", b"20 (x) S one 1 1", b"\xff\0\n", b"20 (x) S " + b"9" * 5_000 + b" 1" * 30],
)
async def test_an_entry_that_is_not_as_it_should_be_is_counted_and_passed_over(stat: bytes, proc: Path) -> None:
    process(proc, 20, 1, b"x\0")
    (proc / "20" / "stat").write_bytes(stat)
    assert (await seen(proc))["odoo.worker.unreadable"] == 1


async def test_one_that_has_ended_and_what_is_no_process_are_passed_over(proc: Path) -> None:
    process(proc, 20, 1, b"x\0").joinpath("stat").unlink()
    for name in ("self", "²", "21x", "１"):
        (proc / name).mkdir()
    assert (await seen(proc))["odoo.worker.unreadable"] == 0


async def test_a_line_that_is_no_socket_is_counted_and_passed_over(proc: Path) -> None:
    (proc / "net" / "tcp").write_bytes(f"sl\n\nx\n{LISTENS}\n   1: zz:zz\n".encode() + b"\xff \xff\n")
    found = await seen(proc)
    assert (found["odoo.worker.unreadable"], found['odoo.worker.waiting{odoo.worker.type="http"}']) == (4, 2)


def test_lines_of_sockets_are_read_whatever_they_hold() -> None:
    assert port(["", "x", LISTENS, LISTENS.replace("0A", "QQ")], 8069) == (0, 2, True, 3)


async def test_no_proc_is_unavailable_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot be read: No such file or directory\. Mount the host's /proc there"):
        await collector(tmp_path / "proc").collect(NOW_MS, None)
