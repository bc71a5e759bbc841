"""The host collector on the host that runs the tests."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from ingest.collector import Collected, Target
from ingest.collectors import host
from ingest.collectors.host import Host, Points
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import OperationsEvent, Scrape
from schemas.series import identity, parse, split
from tests.support.collected import Observer, points, scrape
from tests.support.golden import GOLDEN, agrees

# A kernel may keep no account of pressure, and a container may have no disk of its own.
NOT_EVERYWHERE = ("system.pressure.", "system.disk.")


@asynccontextmanager
async def collector(timeout_s: float = 5, **reads: Callable[[], Points]) -> AsyncIterator[Observer]:
    resource = Resource(name="node-1", system="host", timeout_s=timeout_s)
    target = Target(Cell(name="eu1", tenants=(Tenant(name="acme"),), resources=(resource,)), resource, "")
    one = Observer(target, Host(target, {**host.READS, **reads}))
    try:
        yield one
    finally:
        await one.close()


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_a_look_tells_the_catalogue() -> None:
    async with collector() as one:
        agrees(shape(scrape(await one.collect(now_ms(), None))), GOLDEN / "host" / "look.txt")


def shape(one: Scrape) -> str:
    """Kind and identity of each series that every host has, whatever its disks and mounts are called."""
    lines = set()
    for series in map(parse, split(one.series)):
        named = {name: "*" for name in series.attributes if name in ("system.device", "system.filesystem.mountpoint")}
        if not series.name.startswith(NOT_EVERYWHERE):
            lines.add(f"{BY_NAME[series.name].kind} {identity(series.name, {**series.attributes, **named})}")
    return "".join(f"{line}\n" for line in sorted(lines))


async def test_shares_are_shares_and_work_shows_in_them() -> None:
    async with collector() as one:
        first = points(await one.collect(now_ms(), None))
        busy_until = time.process_time() + 0.2
        while time.process_time() < busy_until:
            pass
        second = points(await one.collect(now_ms(), None))
    assert first["system.cpu.utilization"] is None
    assert 0 < (second["system.cpu.utilization"] or 0) <= 1
    for name in ("system.cpu.iowait", "system.memory.utilization"):
        assert 0 <= (second[name] or 0) <= 1
    assert 0 < (second['system.filesystem.utilization{system.filesystem.mountpoint="/"}'] or 0) <= 1


async def test_the_start_is_the_hosts_and_stays() -> None:
    async with collector() as one:
        looks = [await one.collect(now_ms() + after_ms, None) for after_ms in (0, 700, 1_400)]
    starts = {scrape(look).start_time_ms for look in looks}
    assert len(starts) == 1
    uptime_s = points(looks[0])["system.uptime"]
    assert abs(time.clock_gettime(time.CLOCK_BOOTTIME) - (uptime_s or 0)) < 5


async def test_a_read_that_hangs_holds_one_thread_and_costs_itself_alone() -> None:
    answers, asked = Event(), Event()

    def hang() -> Points:
        asked.set()
        answers.wait(30)
        return {"system.disk.io": 7.0}

    async with collector(timeout_s=0.5, disks=hang) as one:
        looks = [await one.collect(now_ms(), None) for _ in range(3)]
        assert asked.is_set()
        assert [thread.name for thread in threading.enumerate()].count("host: disks") == 1
        answers.set()
        async with asyncio.timeout(30):
            while "disks" in one.collector._threads.hanging:  # noqa: ASYNC110 (a thread tells nobody)
                await asyncio.sleep(0.01)
        free = await one.collect(now_ms(), None)
    assert all(points(look)["system.memory.utilization"] for look in looks)
    assert [[event.name for event in events(look)] for look in [*looks, free]] == [
        ["collector.degraded"],
        [],
        [],
        ["collector.restored"],
    ]
    assert points(free)["system.disk.io"] == 7


def events(collected: Collected) -> list[OperationsEvent]:
    return [record for record in collected.records if isinstance(record, OperationsEvent)]


async def test_a_mount_that_hangs_is_left_out_and_the_others_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = Event()
    told = host._filesystem

    def slow(mountpoint: str) -> Points:
        if mountpoint == str(tmp_path):
            answers.wait(30)
        return told(mountpoint)

    monkeypatch.setattr(host, "_filesystem", slow)
    monkeypatch.setattr(host, "filesystems", lambda: {"nfs:/x": [str(tmp_path)], "/dev/vda": ["/"]})
    async with collector(timeout_s=0.5) as one:
        collected = await one.collect(now_ms(), None)
        answers.set()
    assert points(collected)['system.filesystem.utilization{system.filesystem.mountpoint="/"}']
    assert [event.attributes["pilothouse.collector.part"] for event in events(collected)] == [f"file system {tmp_path}"]


async def test_a_mount_point_that_is_no_utf_8_is_told_readably(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n\x01")
    os.mkdir(place)
    monkeypatch.setattr(host, "filesystems", lambda: {"/dev/vdb": [place]})
    async with collector() as one:
        collected = await one.collect(now_ms(), None)
    scrape(collected).model_dump_json()
    assert any(f"{tmp_path}/caf\\\\xe9\\\\x0a" in series for series in points(collected))


def test_pressure_is_the_time_in_which_some_waited(tmp_path: Path) -> None:
    (tmp_path / "io").write_text(
        "some avg10=0.20 avg60=0.14 avg300=0.16 total=10335070\nfull avg10=0.20 total=8026483\n"
    )
    (tmp_path / "cpu").write_text("nothing known\n")
    assert host.pressure(tmp_path) == {'system.pressure.some{system.pressure.resource="io"}': 10.33507}


def test_shares_of_cpu_time_leave_guests_out() -> None:
    names = ("user", "idle", "iowait", "guest")
    before, now = (
        SimpleNamespace(_fields=names, **dict(zip(names, row, strict=True))) for row in ([0] * 4, [30, 60, 10, 20])
    )
    shares = host.cpu_shares(before, now)
    assert shares == {"system.cpu.utilization": pytest.approx(0.3), "system.cpu.iowait": pytest.approx(0.1)}


def test_a_clock_that_wavers_gives_no_negative_share() -> None:
    names = ("user", "idle", "iowait")
    before, now = (
        SimpleNamespace(_fields=names, **dict(zip(names, row, strict=True))) for row in ([0, 0, 9], [1, 5, 8])
    )
    assert host.cpu_shares(before, now)["system.cpu.iowait"] == 0
    assert host.cpu_shares(now, now) == {"system.cpu.utilization": None, "system.cpu.iowait": None}


def test_a_file_system_is_told_once_and_images_never(tmp_path: Path) -> None:
    (tmp_path / "hosts").touch()
    partitions = [
        partition("/dev/vda", tmp_path, "ext4"),
        partition("/dev/vda", Path("/tmp"), "ext4"),
        partition("/dev/vdb", tmp_path / "hosts", "ext4"),
        partition("/dev/loop3", Path("/var"), "squashfs"),
    ]
    found = host.filesystems(partitions)
    told = {
        parse(series).attributes["system.filesystem.mountpoint"]
        for places in found.values()
        for series in host.filesystem(places)
    }
    assert told == {str(tmp_path), "/"}


def partition(device: str, mountpoint: Path, fstype: str) -> SimpleNamespace:
    return SimpleNamespace(device=device, mountpoint=str(mountpoint), fstype=fstype)


def test_disks_are_told_whole(tmp_path: Path) -> None:
    for name in ("vda", "nvme0n1", "loop0", "zram0"):
        (tmp_path / name).mkdir()
    assert host.whole_disks(tmp_path) == ["nvme0n1", "vda"]
    counters = SimpleNamespace(read_bytes=1, write_bytes=2, read_count=3, write_count=4, busy_time=5_000)
    found = host.disks({"vda": counters, "vda1": counters}, ["nvme0n1", "vda"])
    assert {parse(series).attributes["system.device"] for series in found} == {"vda"}
    assert found['system.disk.io_time{system.device="vda"}'] == 5


def test_bridges_do_not_count_bytes_again(tmp_path: Path) -> None:
    (tmp_path / "eth0" / "device").mkdir(parents=True)
    assert host.uplinks(["lo", "eth0", "docker0"], tmp_path) == ["eth0"]
    assert host.uplinks(["lo", "veth1"], tmp_path) == ["veth1"]
