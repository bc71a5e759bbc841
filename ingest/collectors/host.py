"""Looks at the host that this program runs on: what psutil tells, and the kernel's pressure stall information.

Reading may hang in the kernel (a disk or a mount that does not answer), so each kind of it is a group with a thread of its
own, and so is each file system: one that hangs is left out, and told, until it comes back.
Source: OpenTelemetry semantic conventions, system metrics; Linux, Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from ingest.collector import Collected, CollectorKind, Fault, Options, Target
from ingest.poll import Poll
from ingest.readable import name_of
from ingest.threads import HangsError, Threads
from schemas.series import identity

Points = dict[str, float | None]

PRESSURE = Path("/proc/pressure")
FILE_HANDLES = Path("/proc/sys/fs/file-nr")
BLOCK_DEVICES = Path("/sys/block")
NETWORK = Path("/sys/class/net")
IMAGES = frozenset({"squashfs", "iso9660", "erofs"})  # always full, by nature
NOT_DISKS = ("loop", "ram", "zram", "sr", "fd")
CLOCK_STEP_S = 2
MAX_FILESYSTEMS = 500
MAX_DISKS = 1_000
READ_SHARE = 0.8  # of the resource's time-out


class Host:
    """The CPU times of the last look, since shares are of the time between two. `reads` are the groups by name."""

    def __init__(
        self,
        target: Target,
        reads: Mapping[str, Callable[[], Points]] | None = None,
        mounts: Callable[[], Mapping[str, list[str]]] | None = None,
    ) -> None:
        target.options(Options)
        self._target = target
        self._reads = READS if reads is None else reads
        self._mounts = mounts
        self._threads = Threads("host", target.resource.timeout_s * READ_SHARE)
        self._times: Any = None
        self._boot_s: float | None = None

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """What can be measured now; shares of CPU time from the second look on."""
        poll = Poll(self._target, now_ms, explain=_explain)
        await asyncio.gather(
            self._cpu(poll), self._filesystems(poll), *(self._read(poll, name) for name in self._reads)
        )
        start_ms = None
        if self._boot_s is not None:
            poll.points["system.uptime"] = max(0.0, now_ms / 1000 - self._boot_s)
            start_ms = max(0, int(self._boot_s * 1000))
        return poll.collected(start_time_ms=start_ms)

    async def close(self) -> None:
        """Nothing is waited for; a thread that hangs ends with the process."""

    async def _cpu(self, poll: Poll) -> None:
        answer = await self._answer("cpu", lambda: (psutil.boot_time(), psutil.cpu_times()))
        with poll.group("cpu", instead=lambda: cpu_shares(None, None)):
            boot_s, times = answer()
            poll.points |= cpu_shares(self._times, times)
            self._times = times
            # The kernel derives the start from the clock, so it wavers by a second; a start does not.
            if self._boot_s is None or abs(boot_s - self._boot_s) > CLOCK_STEP_S:
                self._boot_s = boot_s

    async def _filesystems(self, poll: Poll) -> None:
        answer = await self._answer("mounts", self._mounts or filesystems)
        found: list[tuple[str, list[str]]] = []
        with poll.group("mounts"):
            mounts = list(answer().items())
            poll.left_out += max(0, len(mounts) - MAX_FILESYSTEMS)
            for mount in mounts[:MAX_FILESYSTEMS]:
                with poll.row(mount):
                    device, places = mount
                    found.append((name_of(device), [str(place) for place in places]))
        await asyncio.gather(*(self._filesystem(poll, device, places) for device, places in found))

    async def _filesystem(self, poll: Poll, device: str, places: list[str]) -> None:
        part = f"file system {name_of(places[0] if places else device)}"
        answer = await self._answer(part, lambda: filesystem(places))
        with poll.group(part):
            poll.points |= answer()

    async def _read(self, poll: Poll, name: str) -> None:
        answer = await self._answer(name, self._reads[name])
        with poll.group(name):
            poll.points |= answer()

    async def _answer(self, kind: str, read: Callable[[], Any]) -> Callable[[], Any]:
        """What gives the answer or raises why there is none: groups are put together one after the other."""
        try:
            given = await self._threads.run(kind, read)
        except Exception as error:  # noqa: BLE001 (it is raised again within its group)
            failed = error

            def raises() -> Any:
                raise failed

            return raises
        return lambda: given


def _explain(error: Exception) -> Fault | None:
    if isinstance(error, HangsError):
        mend = "See which disk or mount does not answer: processes in state D, the kernel's log"
        return Fault(str(error), mend, key="hangs")
    if isinstance(error, PermissionError):
        return Fault(str(error), "Let the user that runs ingest read it", key="closed")
    return None


def load() -> Points:
    """How many tasks want to run."""
    return {"system.cpu.load_average.1m": os.getloadavg()[0]}


def network() -> Points:
    """Traffic of the interfaces that lead out."""
    counters = psutil.net_io_counters(pernic=True)
    return of_network([counters[name] for name in uplinks(counters)])


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
        "system.memory.utilization": 1 - main.available / main.total if main.total else None,
        "system.paging.utilization": swap.used / swap.total if swap.total else None,
    }


def disks(counters: Mapping[str, Any], wanted: Iterable[str]) -> Points:
    """Counters of whole disks; those of partitions are in them already."""
    points: Points = {}
    for name in list(wanted)[:MAX_DISKS]:
        if name in counters:
            points |= _disk(name, counters[name])
    return points


def filesystems(partitions: Iterable[Any] | None = None) -> dict[str, list[str]]:
    """Mount points by device, in order. Only the list is read: to ask a mount point anything may hang."""
    found: dict[str, list[str]] = {}
    for one in psutil.disk_partitions(all=False) if partitions is None else partitions:
        if one.fstype not in IMAGES:
            found.setdefault(one.device, []).append(one.mountpoint)
    # Of a container the root may be on no device.
    return found if any("/" in places for places in found.values()) else {**found, "the root": ["/"]}


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


def filesystem(mountpoints: Iterable[str]) -> Points:
    """Usage of a file system at the first of its mount points that holds data; the root first."""
    for mountpoint in sorted(mountpoints, key=lambda place: place != "/"):
        # Containers mount single files (/etc/hosts) from the host's disks.
        if Path(mountpoint).is_dir():
            return _filesystem(mountpoint)
    return {}


def _disk(name: str, counters: Any) -> Points:
    device = {"system.device": name_of(name)}
    points: Points = {identity("system.disk.io_time", device): getattr(counters, "busy_time", 0) / 1000}
    for direction in ("read", "write"):
        way = {**device, "disk.io.direction": direction}
        points[identity("system.disk.io", way)] = float(getattr(counters, f"{direction}_bytes"))
        points[identity("system.disk.operations", way)] = float(getattr(counters, f"{direction}_count"))
    return points


def _filesystem(mountpoint: str) -> Points:
    place = {"system.filesystem.mountpoint": name_of(mountpoint)}
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


READS: dict[str, Callable[[], Points]] = {
    "load": load,
    "memory": memory,
    "disks": lambda: disks(psutil.disk_io_counters(perdisk=True) or {}, whole_disks()),
    "network": network,
    "file handles": file_handles,
    "pressure": pressure,
}

KIND = CollectorKind("host", Host)
