"""A window of the log, folded again, tells what was told live: byte for byte, and again the same."""

from __future__ import annotations

import asyncio

from pilothouse.settings import Settings
from tests.support.house import now_ms, running

BEHIND_MS = 30_000


async def ends_ms(after_s: float = 8.0) -> int:
    """The end of a window whose findings have all been told."""
    await asyncio.sleep(after_s)
    return now_ms() - 5_000


async def test_windows_are_folded_again_byte_for_byte(embedded_settings: Settings) -> None:
    async with running(embedded_settings) as one:
        began_ms = now_ms()
        await one.flow(2_000, 20)
        await one.stutter(8)
        await one.put_locks("watcher")
        undisturbed_ms = await ends_ms()
        for number, victim in enumerate(("process", "ingest", "process")):
            await one.program(victim).kill()
            await one.next_stored(60)
            await one.stutter(3)
            await one.put_locks(f"watcher {number}")
        killed_ms = await ends_ms()
        await one.put_locks("straggler", BEHIND_MS)
        late_ms = await ends_ms(14.0)
        windows = {
            "undisturbed": (began_ms, undisturbed_ms),
            "with kills": (undisturbed_ms, killed_ms),
            "with late records": (killed_ms, late_ms),
        }
        for name, window in windows.items():
            first, second = await one.replayed(*window), await one.replayed(*window)
            assert not first.differs, f"{name}: {first.summary()}"
            assert first.told, f"{name}: nothing was told, so nothing was compared"
            assert first.told == second.told, name
        assert first.counts["late"] >= 12
