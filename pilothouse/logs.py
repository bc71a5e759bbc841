"""Our log: one line a decision, time in UTC, fields after the message. Libraries speak from WARNING on.

No secret stands in it, whoever writes: a line is masked as it is written, with its fields and its traceback, and so is what
Python itself says of an exception that nobody has caught (`guard`).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from types import TracebackType
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
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        try:
            line = super().format(record)
            return shown(line + "".join(f" {name}={value}" for name, value in fields.items()))
        except Exception as error:  # noqa: BLE001 (logging would print the arguments as they are)
            return f"{record.levelname} {record.name}: a line that cannot be written: {type(error).__name__}"


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

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Say only where it was: what could not be written may hold a secret."""
        kind = sys.exc_info()[0]
        _say(f"{record.levelname} {record.name}: a line could not be written: {kind.__name__ if kind else '?'}\n")


def configure() -> None:
    """To standard error, our own from INFO on."""
    guard()
    handler = _ToStandardError()
    handler.setFormatter(Fields("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"))
    # With our own broker that is the loopback; whoever names another broker without TLS has chosen so.
    handler.addFilter(lambda record: record.msg != IN_THE_CLEAR)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("ingest", "processors", "sinks", "pilothouse"):
        logging.getLogger(name).setLevel(logging.INFO)


def guard() -> None:
    """From now on Python's own words of uncaught exceptions, and of a log that nobody has configured, hold no secret."""
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    last = _ToStandardError()
    last.setLevel(logging.WARNING)
    last.setFormatter(Fields())
    logging.lastResort = last


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _say(shown("".join(traceback.format_exception(kind, error, trace))))


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_type is SystemExit:
        return
    trace = "".join(traceback.format_exception(told.exc_type, told.exc_value, told.exc_traceback))
    _say(shown(f"Exception in thread {told.thread.name if told.thread else '?'}:\n{trace}"))


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    trace = "".join(traceback.format_exception(told.exc_type, told.exc_value, told.exc_traceback))
    _say(shown(f"{told.err_msg or 'Exception ignored in'}: {type(told.object).__name__}\n{trace}"))


def _say(text: str) -> None:
    # At the end of a program there may be no standard error any more.
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
