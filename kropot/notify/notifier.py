"""Make calls from separate threads. The work never waits for a call, except for a limited time for the last ones.

A failing call is reported once, until one of its kind gets through again. A call that hangs is abandoned after its
time-out: its way is not used again before it returns, and the end of the program does not wait for it.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from kropot.errors import KropotError
from kropot.notify.calling import CallFailedError, load_apprise, ping, run_command, tell_apprise
from kropot.secret import redact

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from kropot.notify.message import Message
    from kropot.notify.rules import NotifyRules, Targets

MOST_WAITING: Final = 64
"""How many calls can wait on each way. Beyond that, a new one replaces the oldest."""

_SPARE_S: Final = 1.0

_LOADING_S: Final = 30.0
"""How long `close` waits for Apprise to load before its time-out starts. Loading takes seconds on a small machine."""


@dataclass(slots=True)
class _Way:
    """One kind of call, with its own thread from its first call on. The thread first calls `load`."""

    name: str
    load: Callable[[], None] | None = None
    is_loaded: threading.Event = field(default_factory=threading.Event)
    waiting: queue.Queue[Callable[[], None] | None] = field(default_factory=lambda: queue.Queue(MOST_WAITING))
    thread: threading.Thread | None = None
    timeout_s: float = 0.0
    is_failing: bool = False


class Notifier:
    """Takes messages and makes the calls of the rules. MUST NOT be used before the process has forked its helpers."""

    def __init__(self, rules: NotifyRules | None, warn: Callable[[str], None]) -> None:
        """Start no thread yet. `warn` takes a sentence, from any thread."""
        self._rules = rules
        self._warn = warn
        self._ways = {each.name: each for each in (_Way("ping"), _Way("apprise", load_apprise), _Way("command"))}

    @property
    def is_empty(self) -> bool:
        """Whether nobody is ever called."""
        return self._rules is None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the last calls get through, within their time-out."""
        self.close()

    def send(self, message: Message) -> None:
        """Make the calls about this message soon. Never waits and never raises."""
        if self._rules is None:
            return
        targets = self._rules.targets(message.command, message.source)
        url, urls, words, timeout_s = targets.ping_url, targets.apprise, targets.command, targets.timeout_s
        # A ping address shows whether runs happen and go well. Alarms do not belong there.
        if url is not None and not message.is_alarm:
            self._put("ping", targets, lambda: ping(url, message, timeout_s))
        if urls and (message.is_alarm or message.state == "fail"):
            self._put("apprise", targets, lambda: tell_apprise(urls, message))
        if words:
            self._put("command", targets, lambda: run_command(words, message, timeout_s))

    def close(self) -> None:
        """Wait for the current calls, at most for one time-out and a second. A later `send` starts new threads.

        Up to half a minute, the time to load Apprise does not count.
        """
        ways = [way for way in self._ways.values() if way.thread is not None]
        for way in ways:
            self._offer(way, None)
        for way in ways:
            way.is_loaded.wait(_LOADING_S)
        deadline = monotonic() + max((way.timeout_s for way in ways), default=0) + _SPARE_S
        for way in ways:
            if way.thread is not None:
                way.thread.join(max(deadline - monotonic(), 0))
                if way.thread.is_alive():
                    self._fail(way, "it hangs, and is left alone")
                    self._end_soon(way)
                else:
                    way.thread = None

    def _put(self, name: str, targets: Targets, call: Callable[[], None]) -> None:
        way = self._ways[name]
        way.timeout_s = max(way.timeout_s, targets.timeout_s)
        self._offer(way, call)
        if way.thread is None or not way.thread.is_alive():
            way.thread = threading.Thread(target=self._work, args=(way,), name=f"notify-{name}", daemon=True)
            way.thread.start()

    def _offer(self, way: _Way, call: Callable[[], None] | None) -> None:
        while True:
            try:
                way.waiting.put_nowait(call)
            except queue.Full:
                try:
                    way.waiting.get_nowait()
                except queue.Empty:
                    continue
            else:
                return

    def _end_soon(self, way: _Way) -> None:
        """End the thread after its current call, and drop the calls that wait."""
        with suppress(queue.Empty):
            while True:
                way.waiting.get_nowait()
        self._offer(way, None)

    def _work(self, way: _Way) -> None:
        if way.load is not None:
            way.load()
        way.is_loaded.set()
        while (call := way.waiting.get()) is not None:
            try:
                call()
            except CallFailedError as error:
                self._fail(way, str(error))
            except Exception as error:  # noqa: BLE001 - a call MUST NOT end a backup
                known = str(error) if isinstance(error, KropotError) else type(error).__name__
                self._fail(way, f"unexpected {known}")
            else:
                way.is_failing = False

    def _fail(self, way: _Way, why: str) -> None:
        if not way.is_failing:
            way.is_failing = True
            self._warn(
                redact(f"a call of [notify] did not get through ({way.name}: {why}); the work itself was not affected")
            )
