"""Logs: one JSON object an event, on standard error. UIDs and AE titles appear in it; patient identity never does.

Event names are ``noun.verb``. An association or a job binds its ids once, and every event inside it carries them.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from dicom_node.dimse.faults import describe

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Should such a key ever be bound, its value is replaced: a log is read by more people than a study is.
_IDENTITY = frozenset(
    {"patient_id", "patient_name", "birth_date", "accession_number", "PatientID", "PatientName", "PatientBirthDate", "AccessionNumber"}
)


def _without_identity(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for key in _IDENTITY.intersection(event):
        event[key] = "(not logged)"
    return event


def _without_exception_text(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put type and place of an exception into the event; its text may quote a data set or a row."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    return {**event, **describe(error)} if isinstance(error, BaseException) else event


class _NameOnly(logging.Formatter):
    """That a library said something; neither what it said nor its traceback, which may quote a data set."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"event": "library.message", "logger": record.name, "level": record.levelname})


def configure(level: str = "info", *, role: str = "") -> None:
    """Set up logging for this process; ``role`` goes into every event."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_exception_text,
            _without_identity,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_NameOnly())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings quote values; one for each odd value of each file says nothing
    sys.excepthook = lambda kind, error, trace: _unexpected(error)
    threading.excepthook = lambda failed: _unexpected(failed.exc_value)
    structlog.contextvars.clear_contextvars()
    if role:
        structlog.contextvars.bind_contextvars(role=role)


def _unexpected(error: BaseException | None) -> None:
    """What nobody caught ends a process or a thread. Python would print its text, which may quote a row or a data set."""
    structlog.get_logger().error("unexpected.error", exc_info=error)


class Repeated:
    """Tells what is new from what was said already: a line that a loop would write again and again is written once in ``seconds``."""

    def __init__(self, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: str | None = None
        self._at = 0.0

    def worth(self, text: str) -> bool:
        """Whether the text is another than the last one, or that was written long ago. Not for several threads at once."""
        now = self._clock()
        if text == self._last and now - self._at < self._seconds:
            return False
        self._last, self._at = text, now
        return True


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Bind values to every event inside the block."""
    with structlog.contextvars.bound_contextvars(**values):
        yield
