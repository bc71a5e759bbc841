"""A loop whose clock jumps: hours of pauses and back-offs pass in no time, and always in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer when nothing is left to do. Nothing real may be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            assert timeout is not None, "everything waits for ever"
            self.now_s += timeout
            return select(0)

        selector.select = jump

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now_s


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run to the end in a loop of its own; what is left over is cancelled."""
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()
