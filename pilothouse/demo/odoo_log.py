"""Lines as Odoo 17-19 write them, one file a cell, shared by all processes of its Odoo.

Source: odoo/netsvc.py, odoo/service/server.py and odoo/addons/base/models/ir_cron.py; checked against recorded logs.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

INFO, WARNING, ERROR = "INFO", "WARNING", "ERROR"
CRON = "odoo.addons.base.models.ir_cron"
JOB_RUNNER = "odoo.addons.queue_job.jobrunner.runner"


class OdooLog:
    """Appends records. A record is one write, so those of several processes never mix."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def write(self, level: str, database: str, logger: str, message: str, performance: str = "") -> None:
        """One record; `database` is `?` where it belongs to none."""
        now = datetime.now(UTC)
        time = f"{now:%Y-%m-%d %H:%M:%S},{now.microsecond // 1000:03d}"
        line = f"{time} {os.getpid()} {level} {database} {logger}: {message} {performance}\n"
        os.write(self._file, line.encode())

    def request(self, database: str, request: str, status: int, statements: int, sql_s: float, wall_s: float) -> None:
        """What werkzeug says of a request; `request` is its method and path. The time that is not SQL is the rest."""
        moment = f"{datetime.now(UTC):%d/%b/%Y %H:%M:%S}"
        message = f'127.0.0.1 - - [{moment}] "{request} HTTP/1.1" {status} -'
        self.write(INFO, database, "werkzeug", message, f"{statements} {sql_s:.3f} {max(0.0, wall_s - sql_s):.3f}")


def path_of(version: int, model: str, method: str) -> str:
    """The request by which a browser calls a method of a model."""
    if method.startswith(("action_", "button_", "create_invoices")):
        path = "/web/dataset/call_button" + (f"/{model}/{method}" if version >= 18 else "")
    else:
        path = f"/web/dataset/call_kw/{model}/{method}"
    return f"POST {path}#{model}.{method}" if version >= 19 else f"POST {path}"


def cron_starts(version: int, name: str, number: int) -> str:
    """A scheduled action begins."""
    return f"Starting job `{name}`." if version == 17 else f"Job '{name}' ({number}) starting"


def cron_ends(version: int, name: str, number: int, done: int, duration_s: float) -> str:
    """A scheduled action has ended well."""
    if version == 17:
        return f"Job done: `{name}` ({duration_s:.3f}s)."
    if version == 18:
        return f"Job '{name}' ({number}) done in {duration_s:.3f}s"
    return f"Job '{name}' ({number}) fully done (#loop 1; done {done}; remaining 0; duration {duration_s:.2f}s)"
