"""Blocking reads that may hang in the kernel: a disk or a mount that does not answer cannot be interrupted.

Each kind of read has a thread of its own, started for it and never waited for at the end, so one that hangs holds up neither
another read, nor the program's shared threads, nor its exit. While it hangs it is not started again: there are never more
threads than kinds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

Answer = TypeVar("Answer")

AT_ONCE = 16


class HangsError(Exception):
    """A read that has not come back; the message says since when it is waited for."""


class Threads:
    """Runs reads by kind. `timeout_s` is how long one is waited for; what comes later is thrown away."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._running: dict[str, tuple[float, asyncio.Event]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    @property
    def hanging(self) -> frozenset[str]:
        """The kinds that have not come back."""
        return frozenset(self._running)

    async def run(self, kind: str, read: Callable[[], Answer]) -> Answer:
        """What `read` gives or raises. Raises HangsError when it does not come back in time, or still has not."""
        await self._come_back(kind)
        async with self._slots:
            answer = self._started(kind, read)
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await asyncio.shield(answer)
            except TimeoutError:
                if answer.done():  # it is the read's own
                    raise
                raise HangsError(f"it does not come back from the kernel within {self._timeout_s:g} s") from None

    async def _come_back(self, kind: str) -> None:
        """Wait for a read whose look was given up a moment ago; raises HangsError of one that has had its time."""
        if kind not in self._running:
            return
        began_s, ended = self._running[kind]
        left_s = began_s + self._timeout_s - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await ended.wait()
        except TimeoutError:
            raise HangsError("a read of an earlier look still hangs in the kernel") from None

    def _started(self, kind: str, read: Callable[[], Answer]) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        answer.add_done_callback(_looked_at)
        self._running[kind] = loop.time(), asyncio.Event()

        def work() -> None:
            try:
                given: Any = read()
                settle = answer.set_result
            except BaseException as error:  # noqa: BLE001 (it is raised where it is waited for)
                given, settle = error, answer.set_exception  # type: ignore[assignment]
            with suppress(RuntimeError):  # the loop has gone meanwhile
                loop.call_soon_threadsafe(self._settled, kind, answer, settle, given)

        Thread(target=work, name=f"{self._name}: {kind}", daemon=True).start()
        return answer

    def _settled(self, kind: str, answer: asyncio.Future[Any], settle: Callable[[Any], None], given: Any) -> None:
        _, ended = self._running.pop(kind)
        ended.set()
        if not answer.done():
            settle(given)


def _looked_at(answer: asyncio.Future[Any]) -> None:
    """An error that comes too late is nobody's any more."""
    if not answer.cancelled():
        answer.exception()
