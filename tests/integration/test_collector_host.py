"""The host collector on the host that runs the tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from ingest.collector import Target, Unavailable
from ingest.collectors import host
from ingest.collectors.host import Host, Points
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import Scrape
from schemas.series import identity, parse, split
from tests.support.collected import points, scrape
from tests.support.golden import GOLDEN, agrees

# A kernel may keep no account of pressure, and a container may have no disk of its own.
NOT_EVERYWHERE = ("system.pressure.", "system.disk.")


@asynccontextmanager
async def collector(read: Callable[[], Points] | None = None) -> AsyncIterator[Host]:
    resource = Resource(name="node-1", system="host")
    one = Host(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),), resources=(resource,)), resource, ""), read)
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


async def test_a_disk_that_hangs_holds_one_thread_and_no_more() -> None:
    answers, asked = Event(), Event()

    def hang() -> Points:
        asked.set()
        answers.wait(10)
        return {}

    async with collector(hang) as one:
        given_up = asyncio.create_task(one.collect(now_ms(), None))
        await asyncio.to_thread(asked.wait, 10)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        with pytest.raises(Unavailable, match="node-1: the reading of an earlier look still hangs"):
            await one.collect(now_ms(), None)
        answers.set()
        async with asyncio.timeout(60):
            while True:
                try:
                    assert points(await one.collect(now_ms(), None))["system.uptime"]
                    break
                except Unavailable:
                    await asyncio.sleep(0.01)


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
    told = {parse(series).attributes["system.filesystem.mountpoint"] for series in host.filesystems(partitions)}
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
