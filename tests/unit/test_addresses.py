"""Urls are read strictly, and an error never repeats one."""

from __future__ import annotations

import pytest

from ingest.addresses import address

SCHEMES = ("redis", "rediss")
CANARY = "hunter2canary"


def read(url: str) -> object:
    return address(url, "resource r", "redis://HOST:PORT", SCHEMES)


@pytest.mark.parametrize(
    ("url", "host", "port", "place"),
    [
        ("redis://[::1]:6379", "::1", 6379, "[::1]:6379"),
        ("redis://[2001:DB8::1]", "2001:db8::1", None, "[2001:db8::1]"),
        ("redis://u:p%2F%23%3F%40x@Cache.Example.:7000/3?a=b", "cache.example", 7000, "cache.example:7000"),
        ("REDISS://bücher.example", "xn--bcher-kva.example", None, "xn--bcher-kva.example"),
        ("redis://my_host:1", "my_host", 1, "my_host:1"),
        ("redis://127.0.0.1", "127.0.0.1", None, "127.0.0.1"),
    ],
)
def test_a_good_url_gives_its_parts(url: str, host: str, port: int | None, place: str) -> None:
    one = address(url, "resource r", "redis://HOST:PORT", SCHEMES)
    assert (one.host, one.port, one.place) == (host, port, place)


def test_user_and_password_are_decoded() -> None:
    one = address("redis://u%40x:p%2F%23%3F%3A@h/db%2Fname", "r", "f", SCHEMES)
    assert (one.user, one.password, one.path) == ("u@x", "p/#?:", "/db/name")


BROKEN = [
    "redis://u:{c}/x@host/db",
    "redis://u:{c}#x@host/db",
    "redis://u:{c}?x@host/db",
    "redis://u:{c}@x@host/db",
    "redis://u:12/{c}@host/db",
    "redis://u:[{c}]@host",
    "redis://u:{c}@host:port",
    "redis://u:{c}@host:99999",
    "redis://u:{c}@host:0",
    "redis://u:{c}@host:٣",
    "redis://u:{c}@a..b",
    "redis://u:{c}@",
    "redis://u:{c}@[::1",
    "redis://u:{c}@::1:6379",
    "redis://u:{c}@[zz]:1",
    "redis://u:{c} x@host",
    "redis://u:{c}\n@host",
    "postgresql://u:{c}@host",
    "{c}",
    "redis:{c}",
    "redis://" + "{c}" * 10 + ".example",
    "",
    "redis://" + "x" * 10_000 + "{c}",
]


@pytest.mark.parametrize("url", BROKEN)
def test_a_broken_url_is_refused_with_the_form_and_without_itself(url: str) -> None:
    with pytest.raises(
        ValueError, match=r"resource r: the url cannot be read: .*; it must read redis://HOST:PORT"
    ) as seen:
        read(url.format(c=CANARY))
    error: BaseException | None = seen.value
    while error is not None:
        assert CANARY not in str(error)
        error = error.__cause__
