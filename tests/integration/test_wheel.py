"""The wheel holds the whole program: what works in a checkout works where only the wheel is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree and unpacked as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(folder)], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def run(site: Path, *arguments: str) -> str:
    """Standard output of the program from the wheel, in a folder where nothing of this tree is."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def test_every_module_and_data_file_is_in_it(site: Path) -> None:
    for package in ("ingest", "processors", "sinks", "schemas", "pilothouse"):
        mine = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
        packed = {path.relative_to(site) for path in (site / package).rglob("*") if path.is_file()}
        assert {path for path in mine - packed if "__pycache__" not in path.parts} == set()


def test_a_benchmark_runs_from_it(site: Path) -> None:
    assert "Example: pilothouse bench" in run(site, "pilothouse", "bench", "--help")
    assert json.loads(run(site, "pilothouse", "bench", "rootcause", "-o", "json"))["drawn"]["faults"] > 0
