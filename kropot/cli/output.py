"""Print results to stdout, and messages and log lines to stderr. Messages and log lines never contain secrets."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Struct
from msgspec.structs import asdict

from kropot import logs
from kropot.secret import redact
from kropot.wording import as_unicode

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from structlog.typing import EventDict, Processor, WrappedLogger


@dataclass(slots=True)
class _Mode:
    """The output settings of this process."""

    is_json: bool = False
    are_results_json: bool = False
    is_quiet: bool = False
    source: str | None = None


_mode = _Mode()


def emit_json(message_type: str, fields: Mapping[str, object], *, flush: bool = True) -> None:
    """Print one JSON object as one line on stdout. docs/json.md says which fields each type of message has.

    Bytes become hexadecimal, and dataclasses become objects. Long lists print faster without `flush`, and the output is
    complete when the command ends.
    """
    _write(as_json({"message_type": message_type, **fields}), flush=flush)


def emit_document(document: Mapping[str, object]) -> None:
    """Print a document whose format docs/format.md defines, such as a proof, as one line on stdout."""
    _write(as_json(document), flush=True)


def emit(text: str, *, flush: bool = True) -> None:
    """Print one line of a result on stdout. Control characters in names do not reach the terminal."""
    _write(printable(text), flush=flush)


def emit_summary(text: str) -> None:
    """Print one line on stdout that sums up successful work. --quiet leaves it out."""
    if not _mode.is_quiet:
        emit(text)


def speak_for(source: str) -> None:
    """Name this source, by its name in the configuration file, in every line on stderr from now on."""
    _mode.source = source


def be_quiet(*, is_quiet: bool) -> None:
    """Set whether this run prints nothing while all is well."""
    _mode.is_quiet = is_quiet


def as_json(value: object) -> str:
    """Return a value as one line of JSON.

    JSON is Unicode, but a path need not be: its bytes that are not UTF-8 are escaped as `emit` escapes them.
    """
    try:
        return orjson.dumps(value, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return orjson.dumps(_encodable(value), default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()


def _encodable(value: object) -> object:
    """Return a value with all its texts converted to Unicode."""
    match value:
        case str() | os.PathLike():
            return as_unicode(os.fsdecode(value))
        case Mapping():
            return {_encodable(key): _encodable(each) for key, each in value.items()}
        case list() | tuple():
            return [_encodable(each) for each in value]
        case Struct():
            return {name: _encodable(each) for name, each in asdict(value).items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {each.name: _encodable(getattr(value, each.name)) for each in fields(value)}
        case _:
            return value


def _write(line: str, *, flush: bool) -> None:
    sys.stdout.write(f"{line}\n")
    if flush:
        sys.stdout.flush()


@contextmanager
def printing_beside_the_work() -> Iterator[None]:
    """Print reports on work within this context. If stdout cannot be written, warn, but do not fail the work.

    Otherwise `collect > log` would report a complete backup as failed if the log's disk is full.
    """
    try:
        yield
    except OSError as error:
        discard_stdout()
        warn(f"the result could not be printed on stdout ({error.strerror}); the work itself was not affected")


def discard_stdout() -> None:
    """Connect stdout to the null device, so that the interpreter's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str, *, level: str = "info") -> None:
    """Print a message for the user on stderr, at any log level. With JSON logs it is one JSON object.

    With --quiet, only warnings and errors are printed.
    """
    if not _mode.is_quiet or level != "info":
        _tell(message_line(text, level=level))


def message_line(text: str, *, level: str = "warning") -> str:
    """Return a message for the user as a line for stderr, without secrets."""
    if _mode.is_json:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        said = {"event": "said", "message": text, "level": level, "timestamp": now}
        line = _as_json(None, level, _with_source(None, level, said))
    else:
        mark = {"warning": "warning: ", "error": "error: ", "critical": "error: "}.get(level, "")
        of = "" if _mode.source is None else f"{_mode.source}: "
        line = mark + of + printable(text)
    return f"{redact(line)}\n"


def say_failure(text: str, code: int) -> None:
    """Say on stderr why the command ends with this exit code. With --json or JSON logs, this is one JSON object."""
    if _mode.is_json or _mode.are_results_json:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        event = {"message_type": "error", "event": "failed", "level": "error", "timestamp": now}
        event |= {} if _mode.source is None else {"source": _mode.source}
        _tell(f"{redact(as_json(event | {'message': text, 'exit': int(code)}))}\n")
    else:
        say(text, level="error")


def _tell(line: str) -> None:
    # A progress bar replaces stderr with its own stream, which click.echo would bypass.
    if sys.stderr is not None:
        sys.stderr.write(line)
        sys.stderr.flush()


def expect_results(*, as_json: bool) -> None:
    """Set whether this run prints its results as JSON. If so, a failure is JSON too."""
    _mode.are_results_json = as_json


def warn(text: str) -> None:
    """Warn the user on stderr."""
    say(text, level="warning")


def printable(text: str) -> str:
    """Return `text` with control characters and lone surrogates escaped. Line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def wants_color(stream: Any) -> bool:
    """Return whether to use colours: the stream is a terminal that is not dumb, and NO_COLOR is not set."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    """Return whether the stream is a terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def configure_logging(level: str, log_format: str) -> None:
    """Send all log lines of this program and its libraries to stderr, as JSON or text, without secrets."""
    number = getattr(logging, level.upper())
    _mode.is_json = log_format == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Below the warning level, libraries log every connection, which helps only in debugging.
    root.setLevel(number if number == logging.DEBUG else max(number, logging.WARNING))
    logs.set_up(lambda: _configure_structlog(number))


class _LibraryLines(logging.Formatter):
    """Makes the lines of libraries look like this program's own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        import structlog

        shared, last = _processors()
        ours = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
        return ours.format(record)


def _configure_structlog(number: int) -> None:
    import structlog

    shared, last = _processors()
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _processors() -> tuple[list[Processor], list[Processor]]:
    """Return the processors for every event, and those that turn it into a line without secrets."""
    import structlog

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _with_source,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if _mode.is_json:
        last: list[Processor] = [structlog.processors.format_exc_info, _as_json]
    else:
        # A rich traceback shortens local variables, and `_redact_line` does not recognize a part of a secret.
        plain = structlog.dev.plain_traceback
        last = [
            structlog.dev.ConsoleRenderer(colors=wants_color(sys.stderr), pad_event_to=0, exception_formatter=plain)
        ]
    return shared, [*last, _redact_line]


def _with_source(_logger: WrappedLogger, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return an event with the source that this process collects from, if it is one of several."""
    if _mode.source is not None:
        event["source"] = _mode.source
    return event


def _as_json(_logger: WrappedLogger, _name: str, event: MutableMapping[str, Any]) -> str:
    """Return a log event as one line of JSON."""
    return as_json(event)


def _redact_line(_logger: WrappedLogger, _name: str, line: EventDict | str) -> str:
    """Remove all known secrets from the finished line, however they got there."""
    return redact(str(line))


def _shown(value: object) -> object:
    """Convert a value that JSON has no type for to one that it has."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
