"""Log lines: one JSON object each for collectors, or text for people, and which benchmark each line is about.

Whoever works on a benchmark says so once (`with about(...)`); every line that is logged inside, by whatever library,
carries its name, its namespace and its uid.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from inferbench_contract.crd import KIND
from inferbench_operator.settings import LogFormat, LogLevel

TOKEN = re.compile(r"(?i)(bearer\s+)[\w.~+/=-]{16,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*")
"""What looks like a credential: a bearer token in a header, a JSON web token anywhere. We log none; a library might."""

logger = logging.getLogger("inferbench")


@dataclass(frozen=True)
class About:
    """What a line is about; empty fields are left out of it."""

    namespace: str = ""
    benchmark: str = ""
    uid: str = ""
    object: str = ""
    """Kind and name of what kopf speaks of, when it is no benchmark."""

    def told(self) -> dict[str, str]:
        """Return what is known, by field."""
        return {key: value for key, value in vars(self).items() if value}


NOTHING = About()

_about: ContextVar[About] = ContextVar("about")


@contextmanager
def about(namespace: str, benchmark: str, uid: str = "") -> Iterator[None]:
    """Mark every line that is logged inside, in this task, as being about a benchmark."""
    token = _about.set(About(namespace, benchmark, uid))
    try:
        yield
    finally:
        _about.reset(token)


def set_up(level: LogLevel, log_format: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Send everything that is logged in this process through one format, uncaught errors and warnings included."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what it is about, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _without_tokens(record.getMessage()),
            **_subject(record).told(),
        }
        if traceback := self.traceback(record):
            line["traceback"] = traceback
        return json.dumps(line, ensure_ascii=False)

    def traceback(self, record: logging.LogRecord) -> str:
        """Return the traceback of a record; nothing where there is none."""
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        parts += [self.formatStack(record.stack_info)] if record.stack_info else []
        return _without_tokens("\n".join(parts))


class TextFormatter(JsonFormatter):
    """A line for a person: time, level, what it is about, message; below it the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        subject = _subject(record)
        place = "/".join(part for part in (subject.namespace, subject.object or subject.benchmark) if part)
        message = _without_tokens(record.getMessage())
        line = f"{_time(record)} {record.levelname:<7} {f'{place}: ' if place else ''}{message}"
        return "\n".join(part for part in (line, self.traceback(record)) if part)


def _subject(record: logging.LogRecord) -> About:
    """Tell what a record is about: what kopf attached to it, or what the task that logs it is working on."""
    reference = getattr(record, "k8s_ref", None)
    return _about.get(NOTHING) if not isinstance(reference, Mapping) else _referred(reference)


def _referred(reference: Mapping[str, Any]) -> About:
    kind, name, namespace, uid = (str(reference.get(key) or "") for key in ("kind", "name", "namespace", "uid"))
    if kind == KIND:
        return About(namespace, name, uid)
    return About(namespace, uid=uid, object=f"{kind}/{name}")


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_tokens(text: str) -> str:
    return TOKEN.sub(lambda found: f"{found[1] or ''}[token]", text)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logger.critical("The operator ends by an error that nobody caught: %s", error, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
        info = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        logger.error("A thread ended by an error that nobody caught: %s", arguments.exc_value, exc_info=info)


def log_loop_error(_: Any, context: Mapping[str, Any]) -> None:
    """Log what a task of the event loop failed with and nobody asked for (`loop.set_exception_handler`)."""
    error = context.get("exception")
    info = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    logger.error("%s", context.get("message", "An error in the event loop"), exc_info=info)
