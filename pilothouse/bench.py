"""`pilothouse bench`: the measurements of `pilothouse/evaluation/` on servers of their own."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pilothouse.errors import Unreachable
from pilothouse.services.stack import STORE, Stack
from pilothouse.settings import Settings

NAMES = ("pipeline", "sink", "latency", "correlator", "rootcause")
SERVERLESS = frozenset({"rootcause"})
LATEST_S = 10.0
"""How long the alerts of `latency` are waited for after the last event."""
LABELLED = "detect"
"""Needs a folder of labelled data, and no servers."""


class Shortfall(Unreachable):
    """A measurement did not come to its end; the message says what was missing."""


async def run(settings: Settings, names: list[str]) -> dict[str, dict[str, Any]]:
    """Start what is not named by the environment and run the measurements one after the other."""
    if SERVERLESS.issuperset(names):
        return {name: await _measure(name, settings) for name in names}
    logging.getLogger("aiokafka").setLevel(
        logging.ERROR
    )  # a topic just made has no leader yet: it warns and tries again
    with _scratch(settings.data_dir) as scratch:
        async with Stack(settings.model_copy(update={"data_dir": scratch}), postgres=[STORE]) as stack:
            return {name: await _measure(name, stack.settings) for name in names}


def labelled(data: Path, out: Path | None) -> dict[str, Any]:
    """Judge by labelled data; the answers are also written to `out`, a file a data set. Raises ValueError if there are none."""
    benchmark = importlib.import_module(f"pilothouse.evaluation.{LABELLED}")
    found: dict[str, Any] = benchmark.measure(data)
    if not found:
        raise ValueError(f"--data {data} holds none of nab/, petshop/ and slo/")
    if out is not None:
        benchmark.write(found, out)
    return found


async def _measure(name: str, settings: Settings) -> dict[str, Any]:
    try:
        found: dict[str, Any] = await importlib.import_module(f"pilothouse.evaluation.{name}").measure(settings)
    except (TimeoutError, RuntimeError) as error:
        raise Shortfall(f"bench {name}: {str(error) or 'took too long'}") from error
    return found


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A data directory that is gone afterwards; PostgreSQL's user may pass through it."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as name:
        Path(name).chmod(0o711)
        yield Path(name)
