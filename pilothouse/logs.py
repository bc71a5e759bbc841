"""Our log: one line a decision, time in UTC, fields after the message. Libraries speak from WARNING on."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from pilothouse.terminal import shown

IN_THE_CLEAR = "Sending username and password in the clear"
"""aiokafka says so at each connection with SASL and without TLS."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Fields(logging.Formatter):
    """`time level logger: message key=value …`, the fields being those given as `extra`; without secrets and escapes."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its fields."""
        line = super().format(record)
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return shown(line + "".join(f" {name}={value}" for name, value in fields.items()))


class _ToStandardError(logging.StreamHandler[Any]):
    """Writes to what standard error is when something is said, not to what it was at the start."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Standard error now."""
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        raise AttributeError("it is standard error")


def configure() -> None:
    """To standard error, our own from INFO on."""
    handler = _ToStandardError()
    handler.setFormatter(Fields("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"))
    # With our own broker that is the loopback; whoever names another broker without TLS has chosen so.
    handler.addFilter(lambda record: record.msg != IN_THE_CLEAR)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("ingest", "processors", "sinks", "pilothouse"):
        logging.getLogger(name).setLevel(logging.INFO)
