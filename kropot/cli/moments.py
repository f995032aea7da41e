"""The option `--until WHEN`, which names a past moment, and its meaning in a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli.base import say
from kropot.durable.dirfd import open_named
from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.replay.moment import Moment
    from ledger.log import Ledger

_NOTE_BYTES: Final = 1 << 20

UNTIL_HELP: Final = (
    "Use the state before WHEN: a date (2026-05-01 means 00:00 UTC that day), a time (2026-05-01T14:30Z) or an age "
    "(36h, 7d, 2w). Or give a position (@120411, the state after that event) or a checkpoint file. Default: now."
)


def until_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--until` to a command."""
    return click.option("--until", metavar="WHEN", help=UNTIL_HELP)(function)


def moment_of(ledger: Ledger, text: str | None) -> Moment:
    """Return the moment that WHEN means in this ledger, and show the user the notes about it.

    Raises: UsageError if WHEN is not valid; IntegrityError if a checkpoint does not belong to this history.
    """
    from kropot.replay.moment import resolve
    from kropot.replay.until import parse_when
    from ledger.log import utc_now_us

    now_us = utc_now_us()
    when = None if text is None else parse_when(text, now_us=now_us, read=read_note)
    moment = resolve(ledger, when, now_us=now_us)
    for note in moment.notes:
        say(note)
    return moment


def since_of(ledger: Ledger, text: str | None) -> int | None:
    """Return the time (microseconds since 1970) that WHEN means in this ledger, None without WHEN.

    Raises: UsageError if WHEN is not valid; IntegrityError if a checkpoint does not belong to this history.
    """
    from kropot.replay.until import At, parse_when
    from ledger.log import utc_now_us

    if text is None:
        return None
    when = parse_when(text, now_us=utc_now_us(), read=read_note)
    if isinstance(when, At):
        return when.us
    recorded_us = moment_of(ledger, text).recorded_us
    return None if recorded_us is None else recorded_us + 1


def read_note(name: str) -> bytes | None:
    """Return the first bytes of a file that could be a checkpoint, or None if the file does not exist.

    Raises: UsageError if the file exists but cannot be read.
    """
    try:
        path = Path(name)
        if not path.is_file():
            return None
        with open_named(path) as file:
            return file.read(_NOTE_BYTES)
    except (ValueError, UnicodeEncodeError):
        return None
    except OSError as error:
        raise UsageError(
            f"cannot read the checkpoint file {name!a} ({error.strerror}): check the path and its permissions"
        ) from None
