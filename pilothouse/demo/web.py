"""Odoo's web process of a cell: `/web/health` over HTTP and TLS. As in Odoo, it knows nothing of workers and crons."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

from pilothouse.demo.odoo_log import OdooLog

REQUEST_BYTES_MAX = 16_384
IDLE_S = 60.0
ANSWERS = {"/web/health": ("application/json", json.dumps({"status": "pass"}))}
PAGE = ("text/html; charset=utf-8", "<!DOCTYPE html><title>Odoo</title><p>Stands in for Odoo.</p>")


class Web:
    """Listens on two ports of loopback."""

    def __init__(self, cell: dict[str, Any], log: OdooLog) -> None:
        self._http_port, self._https_port = cell["http_port"], cell["https_port"]
        self._certificate, self._key = Path(cell["certificate"]), Path(cell["key"])
        self._log = log

    async def work(self) -> None:
        """Until cancelled."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._certificate, self._key)
        plain = await asyncio.start_server(self._serve, "127.0.0.1", self._http_port, limit=REQUEST_BYTES_MAX)
        secure = await asyncio.start_server(
            self._serve, "127.0.0.1", self._https_port, limit=REQUEST_BYTES_MAX, ssl=tls
        )
        async with plain, secure:
            await asyncio.gather(plain.serve_forever(), secure.serve_forever())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, kept open between them."""
        try:
            while True:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE_S)
                writer.write(self._answer(head.partition(b"\r\n")[0].decode(errors="replace")))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            writer.close()

    def _answer(self, line: str) -> bytes:
        began_s = time.perf_counter()
        method, path = [*line.split(), "", ""][:2]
        kind, text = ANSWERS.get(path.partition("?")[0], PAGE)
        body = text.encode()
        self._log.request("?", f"{method} {path}", 200, 0, 0.0, time.perf_counter() - began_s)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body
