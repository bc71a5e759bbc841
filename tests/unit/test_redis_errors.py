"""An error of Redis is told with what would mend it, whichever class the library gives it."""

from __future__ import annotations

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from ingest.collectors.redis_errors import REMEDIES, code, remedy

SAID = {
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGPASS": "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM": "NOPERM this user has no permissions to run the 'slowlog|get' command",
    "MOVED": "MOVED 3999 127.0.0.1:6381",
    "ASK": "ASK 3999 127.0.0.1:6381",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "CROSSSLOT": "CROSSSLOT Keys in request don't hash to the same slot",
    "CLUSTERDOWN": "CLUSTERDOWN Hash slot not served",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "BUSY": "BUSY Redis is busy running a script.",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "WRONGTYPE": "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOPROTO": "NOPROTO unsupported protocol version",
    "DENIED": "DENIED Redis is running in protected mode because no password is set",
    "MAXCLIENTS": "ERR max number of clients reached",
    "UNKNOWN": "ERR unknown command 'LATENCY', with args beginning with: 'LATEST'",
}


def test_every_remedy_has_its_error() -> None:
    assert set(SAID) == set(REMEDIES)


@pytest.mark.parametrize("named", SAID)
def test_an_error_is_told_with_its_own_remedy(named: str) -> None:
    error = BaseParser.parse_error(SAID[named])  # type: ignore[no-untyped-call]
    assert code(error) == named
    assert remedy(error) == REMEDIES[named]
    if named != "NOPERM":
        assert "Grant" not in remedy(error)


def test_what_nobody_knows_is_no_grant() -> None:
    for error in (exceptions.ResponseError("SOMETHING else"), exceptions.ResponseError(""), ValueError("x")):
        assert "Grant" not in remedy(error)
    for away in (exceptions.ConnectionError("refused"), ConnectionRefusedError(), exceptions.TimeoutError("x")):
        assert "Check that the server runs" in remedy(away) or "See what listens" in remedy(away)
