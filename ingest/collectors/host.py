"""Looks at the host that this program runs on: what psutil tells, and the kernel's pressure stall information.

Reading may hang in the kernel (a disk that does not answer), so it is done in a thread of its own, one at a time.
Source: OpenTelemetry semantic conventions, system metrics; Linux, Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from ingest.collector import Collected, CollectorKind, Options, Target, Unavailable
from schemas.series import identity

Points = dict[str, float | None]

PRESSURE = Path("/proc/pressure")
FILE_HANDLES = Path("/proc/sys/fs/file-nr")
BLOCK_DEVICES = Path("/sys/block")
NETWORK = Path("/sys/class/net")
IMAGES = frozenset({"squashfs", "iso9660", "erofs"})  # always full, by nature
NOT_DISKS = ("loop", "ram", "zram", "sr", "fd")
CLOCK_STEP_S = 2


class Host:
    """The CPU times of the last look, since shares are of the time between two."""

    def __init__(self, target: Target, read: Callable[[], Points] | None = None) -> None:
        target.options(Options)
        self._target = target
        self._read = read or read_all
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="host")
        self._reading: Future[tuple[Points, float, Any]] | None = None
        self._times: Any = None
        self._boot_s = 0.0

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """What can be measured now; shares of CPU time from the second look on."""
        if self._reading is not None and not self._reading.done():
            raise Unavailable(
                self._target.resource.name,
                "the reading of an earlier look still hangs in the kernel",
                "See which disk or mount does not answer: processes in state D, the kernel's log",
            )
        self._reading = self._thread.submit(self._everything)
        points, boot_s, times = await asyncio.wrap_future(self._reading)
        points |= cpu_shares(self._times, times)
        self._times = times
        start_s = self._start(boot_s)
        points["system.uptime"] = max(0.0, now_ms / 1000 - start_s)
        return Collected([self._target.scrape(points, now_ms, start_time_ms=int(start_s * 1000))])

    async def close(self) -> None:
        """Let go of the thread; one that hangs ends with the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _everything(self) -> tuple[Points, float, Any]:
        return self._read(), psutil.boot_time(), psutil.cpu_times()

    def _start(self, boot_s: float) -> float:
        """When the host started. The kernel derives it from the clock, so it wavers by a second; a start does not."""
        if abs(boot_s - self._boot_s) > CLOCK_STEP_S:
            self._boot_s = boot_s
        return self._boot_s


def read_all() -> Points:
    """Everything but the shares of CPU time."""
    load: Points = {"system.cpu.load_average.1m": os.getloadavg()[0]}
    network = psutil.net_io_counters(pernic=True)
    return (
        load
        | memory()
        | disks(psutil.disk_io_counters(perdisk=True) or {}, whole_disks())
        | filesystems(psutil.disk_partitions(all=False))
        | of_network([network[name] for name in uplinks(network)])
        | file_handles()
        | pressure()
    )


def cpu_shares(before: Any, now: Any) -> Points:
    """Shares of the CPU time between two looks, unmeasured at the first."""
    spent = None if before is None else {name: getattr(now, name) - getattr(before, name) for name in now._fields}
    # Time of guests is in that of user and nice already.
    total_s = 0.0 if spent is None else sum(value for name, value in spent.items() if not name.startswith("guest"))
    if spent is None or total_s <= 0:
        return {"system.cpu.utilization": None, "system.cpu.iowait": None}
    waited_s = max(0.0, spent.get("iowait", 0.0))
    idle_s = max(0.0, spent["idle"]) + waited_s
    return {
        "system.cpu.utilization": min(1.0, max(0.0, 1 - idle_s / total_s)),
        "system.cpu.iowait": min(1.0, waited_s / total_s),
    }


def memory() -> Points:
    """Memory by state, and the share of it and of swap that is taken."""
    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    states = {"used": "used", "free": "free", "cached": "cached", "buffers": "buffers"}
    return {
        **{
            identity("system.memory.usage", {"system.memory.state": state}): float(getattr(main, field))
            for state, field in states.items()
            if hasattr(main, field)
        },
        "system.memory.utilization": 1 - main.available / main.total,
        "system.paging.utilization": swap.used / swap.total if swap.total else None,
    }


def disks(counters: Mapping[str, Any], wanted: Iterable[str]) -> Points:
    """Counters of whole disks; those of partitions are in them already."""
    points: Points = {}
    for name in wanted:
        if name in counters:
            points |= _disk(name, counters[name])
    return points


def filesystems(partitions: Iterable[Any]) -> Points:
    """Usage of each file system once, at its first mount point."""
    places = {one.device: one.mountpoint for one in reversed(list(partitions)) if _holds_data(one)}
    points: Points = {}
    for mountpoint in {*places.values(), "/"}:
        points |= _filesystem(mountpoint)
    return points


def of_network(uplinks: Iterable[Any]) -> Points:
    """Traffic of the interfaces together."""
    every = list(uplinks)
    fields = {"receive": ("bytes_recv", "errin"), "transmit": ("bytes_sent", "errout")}
    points: Points = {}
    for direction, (octets, errors) in fields.items():
        way = {"network.io.direction": direction}
        points[identity("system.network.io", way)] = float(sum(getattr(one, octets) for one in every))
        points[identity("system.network.errors", way)] = float(sum(getattr(one, errors) for one in every))
    return points


def pressure(directory: Path = PRESSURE) -> Points:
    """Time in which some task waited for a resource; nothing where the kernel keeps no such account."""
    points: Points = {}
    for resource in ("cpu", "io", "memory"):
        try:
            stalled_s = some_s((directory / resource).read_text())
        except (OSError, ValueError):
            continue
        points[identity("system.pressure.some", {"system.pressure.resource": resource})] = stalled_s
    return points


def file_handles(path: Path = FILE_HANDLES) -> Points:
    """File handles given out and at most; nothing where the kernel does not tell."""
    try:
        given, _, most = path.read_text().split()
    except (OSError, ValueError):
        return {}
    return {"system.file_handle.usage": float(given), "system.file_handle.limit": float(most)}


def some_s(text: str) -> float:
    """The total of the line `some avg10=0.00 ... total=1234`, which is in µs. Raises ValueError when it is not there."""
    line = next(line for line in [*text.splitlines(), "some"] if line.startswith("some"))
    return int(line.rpartition("total=")[2]) / 1e6


def whole_disks(directory: Path = BLOCK_DEVICES) -> list[str]:
    """Names of the block devices that are disks."""
    return sorted(one.name for one in directory.glob("*") if not one.name.startswith(NOT_DISKS))


def uplinks(names: Iterable[str], directory: Path = NETWORK) -> list[str]:
    """Interfaces that lead out: those with a device behind them, since bridges and tunnels count the same bytes again.

    In a container there are none; then all but loopback.
    """
    every = [name for name in names if name != "lo"]
    return [name for name in every if (directory / name / "device").exists()] or every


def _disk(name: str, counters: Any) -> Points:
    device = {"system.device": name}
    points: Points = {identity("system.disk.io_time", device): getattr(counters, "busy_time", 0) / 1000}
    for direction in ("read", "write"):
        way = {**device, "disk.io.direction": direction}
        points[identity("system.disk.io", way)] = float(getattr(counters, f"{direction}_bytes"))
        points[identity("system.disk.operations", way)] = float(getattr(counters, f"{direction}_count"))
    return points


def _filesystem(mountpoint: str) -> Points:
    place = {"system.filesystem.mountpoint": mountpoint}
    try:
        usage, nodes = psutil.disk_usage(mountpoint), os.statvfs(mountpoint)
    except OSError:  # unmounted meanwhile, or closed to us
        return {}
    # What is kept back for root cannot be filled by anybody else.
    reachable = usage.used + usage.free
    return {
        identity("system.filesystem.usage", place): float(usage.used),
        identity("system.filesystem.limit", place): float(usage.total),
        identity("system.filesystem.utilization", place): usage.used / reachable if reachable else None,
        # Some file systems make inodes as they need them, and say 0.
        identity("system.filesystem.inodes.usage", place): float(nodes.f_files - nodes.f_ffree)
        if nodes.f_files
        else None,
        identity("system.filesystem.inodes.limit", place): float(nodes.f_files) or None,
    }


def _holds_data(partition: Any) -> bool:
    # Containers mount single files (/etc/hosts) from the host's disks.
    return partition.fstype not in IMAGES and Path(partition.mountpoint).is_dir()


KIND = CollectorKind("host", Host)
