"""What the program prints: results on stdout, messages and log lines on stderr, and no secret on either."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from kropot.secret import redact

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import EventDict, Processor, WrappedLogger

log = structlog.get_logger()


@dataclass(slots=True)
class _Mode:
    """How stderr looks in this process."""

    is_json: bool = False


_mode = _Mode()


def emit_json(value: object, *, flush: bool = True) -> None:
    """Print one JSON document on one line of stdout; bytes are shown in hexadecimal, dataclasses as objects.

    A long list is printed faster without `flush`; it is complete when the command ends.
    """
    _write(orjson.dumps(value, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode(), flush=flush)


def emit(text: str, *, flush: bool = True) -> None:
    """Print one line of a result on stdout; control characters of foreign names cannot reach the terminal."""
    _write(printable(text), flush=flush)


def _write(line: str, *, flush: bool) -> None:
    sys.stdout.write(f"{line}\n")
    if flush:
        sys.stdout.flush()


def say(text: str, *, level: str = "info") -> None:
    """Tell the user something on stderr, at any log level: a sentence, or a line of JSON where the log is JSON."""
    if _mode.is_json:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        line = _as_json(None, level, {"event": "said", "message": text, "level": level, "timestamp": now})
    else:
        mark = {"warning": "warning: ", "error": "error: ", "critical": "error: "}.get(level, "")
        line = mark + printable(text)
    # Not by click, which writes to the file behind a stream that a progress bar has put itself before.
    if sys.stderr is not None:
        sys.stderr.write(f"{redact(line)}\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Warn the user on stderr."""
    say(text, level="warning")


def printable(text: str) -> str:
    """Return `text` with control characters and lone surrogates escaped; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def wants_color(stream: Any) -> bool:
    """Return whether colours are welcome on the stream: a terminal, and no NO_COLOR in the environment."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    """Return whether a person is looking at the stream."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def configure_logging(level: str, log_format: str) -> None:
    """Send every log line of this program and its libraries to stderr, as JSON or for people, without secrets."""
    number = getattr(logging, level.upper())
    _mode.is_json = log_format == "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if _mode.is_json:
        last: list[Processor] = [structlog.processors.format_exc_info, _as_json]
    else:
        # A plain traceback: a pretty one would show local variables, cut into pieces that the wall does not know.
        plain = structlog.dev.plain_traceback
        last = [
            structlog.dev.ConsoleRenderer(colors=wants_color(sys.stderr), pad_event_to=0, exception_formatter=plain)
        ]
    structlog.configure(
        processors=[*shared, *last, _wall],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, _wall],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries tell of every connection at their lower levels; that is for debugging alone.
    root.setLevel(number if number == logging.DEBUG else max(number, logging.WARNING))


def _as_json(_logger: WrappedLogger, _name: str, event: MutableMapping[str, Any]) -> str:
    """Render an event as one line of JSON."""
    return orjson.dumps(event, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()


def _wall(_logger: WrappedLogger, _name: str, line: EventDict | str) -> str:
    """Blot out known secrets in the finished line: whatever reached it, by whichever way, stops here."""
    return redact(str(line))


def _shown(value: object) -> object:
    """Return what JSON shows of a value it does not know."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
