"""Calls about a command that ends by itself, e.g. `verify`: when it begins, and how it ended, with its counts."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kropot.cli.output import warn
from kropot.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.notify.message import State
    from kropot.notify.rules import NotifyRules
    from kropot.query.alarm import Alarm
    from kropot.query.facts import Facts

_COMMANDS: Final = frozenset({"verify", "prune", "status"})

_counts: Final[dict[str, int | float | str | bool | None]] = {}
"""What the running command counted. A process runs only one command."""


def note_counts(**counts: float | str | bool | None) -> None:
    """Note the counts of the command that is about to end: numbers and stable words, never a name."""
    _counts.update(counts)


@contextmanager
def calls_about(
    rules: NotifyRules | None, path: Sequence[str], params: dict[str, Any]
) -> Iterator[Callable[[int], None]]:
    """Call before and after the block, which runs the command at `path` and passes its exit code to the function."""
    command = path[0] if len(path) == 1 else ""
    is_told = command in _COMMANDS and (command != "status" or params.get("check"))
    if rules is None or not is_told or params.get("dry_run"):
        yield lambda _code: None
        return
    from kropot.notify.message import Message
    from kropot.notify.notifier import Notifier

    notifier, began = Notifier(rules, warn), time.monotonic()
    _counts.clear()
    # The calling thread must end before the command starts helpers: only a process with one thread can fork.
    with notifier:
        notifier.send(Message(command=command, state="start", text=f"{command} began"))
    ended = Exit.ERROR
    try:
        codes: list[int] = []
        yield codes.append
        ended = Exit(codes[-1])
    except SystemExit as error:
        ended = Exit(error.code) if isinstance(error.code, int) and error.code in list(Exit) else Exit.ERROR
        raise
    except BaseException as error:
        from kropot.cli.failures import explain

        ended = explain(error)[1]
        raise
    finally:
        text = f"{command} is done" if ended == Exit.DONE else f"{command} ended with exit code {ended}: see its output"
        counts = {**_counts, "exit": int(ended), "seconds": round(time.monotonic() - began, 1)}
        state: State = "success" if ended == Exit.DONE else "fail"
        with notifier:
            notifier.send(Message(command=command, state=state, text=text, counts=counts))


def call_about_alarms(rules: NotifyRules | None, ledger_id: bytes, facts: Facts, alarms: Sequence[Alarm]) -> None:
    """Call about alarms that began or ended since somebody last looked."""
    if rules is None:
        return
    from kropot.notify.alarms import ToldAlarms
    from kropot.notify.notifier import Notifier

    names = {each.id: each.label or each.id.hex()[:8] for each in facts.sources}
    with Notifier(rules, warn) as notifier:
        for message in ToldAlarms(ledger_id).news(alarms, names, command="status", warn=warn):
            notifier.send(message)
