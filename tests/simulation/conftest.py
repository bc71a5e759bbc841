"""The estate of the scenarios: its weeks are folded once for all tests."""

from __future__ import annotations

import pytest

from pilothouse.simulate.scenarios import Scene, scene


@pytest.fixture(scope="session")
def estate() -> Scene:
    return scene()
