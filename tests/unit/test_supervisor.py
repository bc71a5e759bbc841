"""The supervisor: it starts again what ended, says why, and gives up what cannot get better by itself."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from pilothouse import supervisor as supervising
from pilothouse.services.child import Command
from pilothouse.supervisor import GivenUp, Program, Supervisor


class Script(Program):
    """A program of a few lines; `{count}` in them is how often it was started."""

    def __init__(self, folder: Path, code: str) -> None:
        super().__init__("program/script", [code], folder / "home", folder / "logs")
        self.starts = 0

    async def prepare(self) -> Command:
        self.starts += 1
        return Command([sys.executable, "-c", self.arguments[0].replace("{count}", str(self.starts))])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "LOOK_S", 0.01)
    monkeypatch.setattr(supervising, "PAUSE_S", 0.01)


async def watched(script: Script) -> Supervisor:
    """Watched until it is given up. Raises GivenUp; stops the program."""
    supervisor = Supervisor([script])
    await supervisor.up()
    try:
        async with asyncio.timeout(60):
            await supervisor.watch()
    except* GivenUp as group:
        raise group.exceptions[0] from None
    finally:
        await supervisor.down()
    return supervisor


async def test_a_misconfigured_program_is_given_up_at_once_with_its_reason(tmp_path: Path) -> None:
    script = Script(tmp_path, "import sys; sys.stderr.write('pilothouse: PILOTHOUSE_KAFKA is wrong'); sys.exit(2)")
    with pytest.raises(
        GivenUp, match=r"exit code 2\. The end of .*script\.log:\n +pilothouse: PILOTHOUSE_KAFKA is wrong"
    ):
        await watched(script)
    assert script.starts == 1


async def test_a_program_that_never_ran_is_given_up_after_five_quick_failures(tmp_path: Path) -> None:
    script = Script(tmp_path, "raise SystemExit('no luck')")
    with pytest.raises(GivenUp, match=r"exit code 1 for the 5th time(?s:.*)no luck"):
        await watched(script)
    assert script.starts == 5


@pytest.mark.parametrize("end", ["sys.exit(3)", "os.kill(os.getpid(), 9)", "sys.exit(0)"])
async def test_what_is_away_or_was_killed_is_started_again_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """The eighth start is misconfigured, so that the test ends."""
    code = f"import os, sys; sys.stderr.write('because of {{count}}\\n'); sys.stderr.flush(); {{count}} > 7 and sys.exit(2); {end}"
    script = Script(tmp_path, code)
    with caplog.at_level(logging.WARNING), pytest.raises(GivenUp):
        await watched(script)
    assert script.starts == 8
    reasons = [getattr(record, "reason", None) for record in caplog.records if record.name == "pilothouse.supervisor"]
    assert reasons == [f"because of {count}" for count in range(1, 8)]
