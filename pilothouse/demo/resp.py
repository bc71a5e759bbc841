"""As much of the Redis protocol as the workload needs, so that its many processes stay small.

Source: the Redis serialization protocol, RESP2.
"""

from __future__ import annotations

import asyncio
from urllib.parse import unquote, urlsplit

Reply = bytes | int | list["Reply"] | None


class Valkey:
    """One connection, opened when needed and after every failure anew; commands of several tasks take turns."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._password = unquote(parts.password or "")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def call(self, *words: str | int) -> Reply:
        """Send a command and return its reply. Raises OSError, also for an error reply."""
        async with self._turn:
            try:
                return await self._ask(words)
            except BaseException:
                # A reply that was given up would be taken for the next command's.
                self.close()
                raise

    async def _ask(self, words: tuple[str | int, ...]) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
            if self._password:
                await self._exchange(("AUTH", self._password))
        return await self._exchange(words)

    async def _exchange(self, words: tuple[str | int, ...]) -> Reply:
        assert self._streams
        reader, writer = self._streams
        writer.write(_encoded(words))
        await writer.drain()
        return await _read(reader)

    def close(self) -> None:
        """Hang up; the next command connects again."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


def _encoded(words: tuple[str | int, ...]) -> bytes:
    bulks = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(bulks) + b"".join(b"$%d\r\n%b\r\n" % (len(bulk), bulk) for bulk in bulks)


async def _read(reader: asyncio.StreamReader) -> Reply:
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the server has hung up")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise OSError(f"valkey says {rest.decode()}")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [await _read(reader) for _ in range(int(rest))]
    return rest
