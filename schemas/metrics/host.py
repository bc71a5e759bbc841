"""What is read from a host; OpenTelemetry system.* names."""

from __future__ import annotations

from schemas.metrics.metric import Departure, Kind, Metric

METRICS = (
    Metric(
        "system.cpu.utilization",
        Kind.GAUGE,
        "1",
        "Share of CPU time that was not idle since the last look.",
        bad=Departure.UP,
        cause="host.cpu",
        floor=0.2,
    ),
    Metric(
        "system.cpu.iowait",
        Kind.GAUGE,
        "1",
        "Share of CPU time spent waiting for block devices since the last look.",
        bad=Departure.UP,
        cause="storage",
        floor=0.1,
    ),
    Metric(
        "system.cpu.load_average.1m",
        Kind.GAUGE,
        "{thread}",
        "Load average over one minute.",
        bad=Departure.UP,
        cause="host.cpu",
        floor=2,
    ),
    Metric("system.memory.usage", Kind.GAUGE, "By", "Memory by system.memory.state."),
    Metric(
        "system.memory.utilization",
        Kind.GAUGE,
        "1",
        "Share of memory that is not available.",
        bad=Departure.UP,
        cause="host.memory",
        floor=0.1,
    ),
    Metric("system.paging.utilization", Kind.GAUGE, "1", "Share of swap used."),
    Metric("system.disk.io", Kind.SUM, "By", "Bytes by system.device and disk.io.direction."),
    Metric(
        "system.disk.io_time", Kind.SUM, "s", "Time a device was busy.", bad=Departure.UP, cause="storage", floor=0.3
    ),
    Metric("system.disk.operations", Kind.SUM, "{operation}", "Operations by system.device and disk.io.direction."),
    Metric("system.filesystem.usage", Kind.GAUGE, "By", "Used bytes by system.filesystem.mountpoint."),
    Metric("system.filesystem.limit", Kind.GAUGE, "By", "Size by system.filesystem.mountpoint."),
    Metric(
        "system.filesystem.utilization",
        Kind.GAUGE,
        "1",
        "Used share by system.filesystem.mountpoint.",
        bad=Departure.UP,
        cause="storage.full",
        floor=0.05,
        limit=1.0,
    ),
    Metric("system.filesystem.inodes.usage", Kind.GAUGE, "{inode}", "Used inodes by system.filesystem.mountpoint."),
    Metric("system.filesystem.inodes.limit", Kind.GAUGE, "{inode}", "Inodes by system.filesystem.mountpoint."),
    Metric("system.file_handle.usage", Kind.GAUGE, "{file}", "File handles that the kernel has given out."),
    Metric("system.file_handle.limit", Kind.GAUGE, "{file}", "File handles that it gives out at most (fs.file-max)."),
    Metric("system.network.io", Kind.SUM, "By", "Bytes by network.io.direction."),
    Metric(
        "system.network.errors",
        Kind.SUM,
        "{error}",
        "Errors by network.io.direction.",
        bad=Departure.UP,
        cause="network",
        floor=1,
    ),
    Metric(
        "system.pressure.some",
        Kind.SUM,
        "s",
        "Time in which some task waited (PSI), by system.pressure.resource: cpu, io, memory.",
        bad=Departure.UP,
        cause="host.pressure",
        floor=0.3,
    ),
    Metric("system.uptime", Kind.GAUGE, "s", "Time since boot."),
)
