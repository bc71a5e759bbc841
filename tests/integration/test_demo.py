"""The demo as a user runs it, and what its report says. CI plays three faults; the soak plays all, thrice, and the hard ones."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pilothouse.settings import Settings

pytestmark = pytest.mark.alone

PATIENCE_S = 600  # servers, and a slow machine that folds the past; seconds count from then


async def played(settings: Settings, scenario: str, seconds: int, tmp_path: Path) -> dict[str, Any]:
    """Run `pilothouse demo`; gives its report, and fails with its last lines when there is none."""
    report = tmp_path / "report.json"
    data = settings.data_dir / "the-demo"
    command = ["demo", "--for", str(seconds), "--scenario", scenario, "--report", str(report), "--data", str(data)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pilothouse",
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PILOTHOUSE_CACHE": str(settings.cache_dir)},
    )
    async with asyncio.timeout(seconds + PATIENCE_S):
        output, _ = await process.communicate()
    assert report.exists(), output.decode()[-4_000:]
    made: dict[str, Any] = json.loads(report.read_text())
    return made


def check(report: dict[str, Any]) -> None:
    for fault in report["faults"]:
        assert fault["named_cause"] == fault["true_cause"], fault
        assert fault["detected_at"] - fault["injected_at"] <= 30, fault
        assert set(fault["tenants"]) & set(fault["expected_tenants"]), fault
    assert report["false_alarms"] == []
    assert all(peak["signals"] == [] for peak in report["peaks"])
    assert (report["lost"], report["duplicates"]) == (0, 0)
    assert report["records_in"] > 20_000  # the past was played, too


async def test_three_faults_are_seen_for_what_they_are(embedded_settings: Settings, tmp_path: Path) -> None:
    check(await played(embedded_settings, "S1,S2,S5", 175, tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("_run", [1, 2, 3])
async def test_all_faults_are_seen_for_what_they_are(embedded_settings: Settings, tmp_path: Path, _run: int) -> None:
    check(await played(embedded_settings, "all", 310, tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("scenario", ["weak", "double"])
async def test_most_weak_and_double_faults_are_seen(embedded_settings: Settings, tmp_path: Path, scenario: str) -> None:
    report = await played(embedded_settings, scenario, 0, tmp_path)
    right = [fault["named_cause"] == fault["true_cause"] for fault in report["faults"]]
    assert sum(right) >= 0.8 * len(right), report["faults"]
    assert (report["lost"], report["duplicates"]) == (0, 0)
