"""What INFO of Redis 6.2, 8.2 and Valkey 9.1, as recorded from the servers, means."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ingest.collectors import redis_points
from tests.support.golden import GOLDEN, agrees

SERVERS = ("redis_6.2", "redis_8.2", "valkey_9.1")
RECORDED_MS = 1_795_240_200_000


def recorded(server: str) -> redis_points.Info:
    return redis_points.info_of((GOLDEN / "redis" / f"info_{server}.txt").read_bytes())


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_gives_the_same_metrics(server: str) -> None:
    info = recorded(server)
    points = redis_points.of_info(info, RECORDED_MS) | redis_points.of_calls({}, redis_points.calls_of(info))
    lines = [f"{series} {value if value is None else round(value, 9)}\n" for series, value in sorted(points.items())]
    agrees("".join(lines), GOLDEN / "redis" / f"points_{server}.txt")


@pytest.mark.parametrize("server", SERVERS)
def test_nothing_that_the_catalogue_wants_is_missing(server: str) -> None:
    points = redis_points.of_info(recorded(server), RECORDED_MS)
    assert [series for series, value in points.items() if value is None] == []


def test_a_field_that_is_no_number_is_unmeasured() -> None:
    for text in ("nan", "-nan", "inf", "", "many"):
        info = redis_points.info_of(f"mem_fragmentation_ratio:{text}")
        assert redis_points.of_info(info, 0)["redis.memory.fragmentation"] is None


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"rdb_last_bgsave_status": "ok"}, 1.0),
        ({"rdb_last_bgsave_status": "err"}, 0.0),
        ({"rdb_last_bgsave_status": "ok", "aof_enabled": 1, "aof_last_write_status": "err"}, 0.0),
        ({"rdb_last_bgsave_status": "ok", "aof_enabled": 0, "aof_last_write_status": "err"}, 1.0),
        ({}, None),
    ],
)
def test_persistence_is_good_while_every_way_of_it_in_use_is(info: redis_points.Info, expected: float | None) -> None:
    assert redis_points.of_info(info, 0)["redis.persistence.ok"] == expected


@pytest.mark.parametrize("field", ["master_link_status", "primary_link_status"])
def test_a_replica_tells_of_its_link_and_a_primary_does_not(field: str) -> None:
    links = [
        redis_points.of_info(info, 0).get("redis.replication.link.up") for info in ({field: "up"}, {field: "down"}, {})
    ]
    assert links == [1.0, 0.0, None]


def test_commands_are_measured_by_what_was_added_since_the_last_look() -> None:
    looks = [calls(10, 1.0), calls(14, 3.0), calls(14, 3.0), calls(2, 0.5)]
    series = 'redis.command.duration{db.operation.name="GET"}'
    first = redis_points.of_calls(None, looks[0])[series]
    means = [redis_points.of_calls(before, now)[series] for before, now in pairwise(looks)]
    assert [first, *means] == [None, 0.5, None, 0.25]  # the last after CONFIG RESETSTAT


def calls(count: float, time_s: float) -> redis_points.Calls:
    return {"GET": (count, time_s)}


def test_a_spike_counts_for_a_minute() -> None:
    spikes = [redis_points.of_latency([b"command", 1_000, 250, 900], now_s) for now_s in (1_059.0, 1_061.0)]
    assert [spike['redis.latency.spike.max{redis.latency.event="command"}'] for spike in spikes] == [0.25, 0.0]


def test_a_slow_entry_has_the_commands_name_and_none_of_its_arguments() -> None:
    entries = [
        entry(2, b"set iban:4711", b"DE00"),
        entry(1, b"\xffDE00", b"x"),
        entry(3, b"ft.search", b"idx", b"DE00"),
    ]
    slow = [redis_points.slow_of(one) for one in entries]
    assert [(one.number, one.command) for one in slow] == [(2, "SET"), (1, "?"), (3, "FT.SEARCH")]
    assert slow[0].attributes() == {
        "db.operation.name": "SET",
        "redis.slowlog.duration_s": 0.0125,
        "client.address": "10.0.0.9",
    }


def entry(number: int, *command: bytes) -> list[object]:
    return [number, 1_000, 12_500, list(command), b"10.0.0.9:5000", b"name"]


@pytest.mark.parametrize(
    "line",
    [
        "cmdstat_get:calls=1,usec_per_call=3.0",
        "cmdstat_get:calls=,usec=1",
        "cmdstat_get:calls=one,usec=two",
        "cmdstat_get:",
        "cmdstat_get:calls",
        "cmdstat_:calls=inf,usec=nan",
        "cmdstat_get:calls=" + "9" * 5_000 + ",usec=1",
    ],
)
def test_a_command_without_its_sums_costs_itself_alone(line: str) -> None:
    info = redis_points.info_of(f"{line}\r\ncmdstat_set:calls=2,usec=4000000,usec_per_call=2.0\r\n")
    assert redis_points.calls_of(info) == {"SET": (2.0, 4.0)}


def test_any_field_may_be_missing_garbled_or_of_another_shape() -> None:
    text = (GOLDEN / "redis" / "info_redis_8.2.txt").read_text()
    names = [line.partition(":")[0] for line in text.splitlines() if ":" in line]
    for garbage in ("", "?", "a=b", "nan", "-", "=,=", "9" * 400, "\udcff\x00", "1=2=3"):
        for name in names:
            lines = [f"{name}:{garbage}" if line.startswith(f"{name}:") else line for line in text.splitlines()]
            info = redis_points.info_of("\n".join(lines))
            points = redis_points.of_info(info, RECORDED_MS) | redis_points.of_calls({}, redis_points.calls_of(info))
            assert len(points) > 30
            assert all(value is None or isinstance(value, float) for value in points.values())


def test_more_commands_than_anybody_looks_at_are_counted() -> None:
    info = redis_points.info_of("".join(f"cmdstat_c{number}:calls=1,usec=1\n" for number in range(1_500)))
    assert (len(redis_points.calls_of(info)), redis_points.beyond_bounds(info)) == (1_000, 500)
