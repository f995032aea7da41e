"""Which alarms were reported, kept in this user's state folder. Each is reported when it begins and when it ends.

`collect` and `status --check` share it: the one does not report an alarm again that the other has reported.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

from kropot.durable.filesystem import OsFiles
from kropot.durable.newfile import replace_file
from kropot.notify.message import Message
from kropot.user_folders import state_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from kropot.query.alarm import Alarm

FOLDER: Final = "alarms"
_MOST_BYTES: Final = 1 << 20

AlarmId = tuple[str, str]
"""An alarm's stable name, and its source's id in hexadecimal or an empty string."""


class ToldAlarms:
    """The alarms of one ledger that were reported and have not ended."""

    def __init__(self, ledger_id: bytes) -> None:
        """Read nothing yet."""
        folder = state_folder()
        self._path: Path | None = None if folder is None else folder / FOLDER / f"{ledger_id.hex()}.json"
        self._known: set[AlarmId] | None = None

    def news(
        self,
        alarms: Iterable[Alarm],
        names: Mapping[bytes, str],
        *,
        command: str,
        warn: Callable[[str], None],
        not_yet: frozenset[str] = frozenset(),
    ) -> list[Message]:
        """Return the messages to send now, and remember them. `names` maps sources' ids to labels or short ids.

        Alarms with a name in `not_yet` are not reported when they begin, but are looked at again the next time.
        """
        now: dict[AlarmId, Alarm] = {}
        for alarm in alarms:
            now.setdefault((alarm.name, "" if alarm.source is None else alarm.source.hex()), alarm)
        before = self._read()
        now = {key: alarm for key, alarm in now.items() if key in before or alarm.name not in not_yet}
        messages = [
            Message(
                command=command,
                state="alarm_began",
                text=_text(now[name, source]),
                source=_name(source, names),
                counts={"alarm": name},
            )
            for name, source in now.keys() - before
        ]
        messages += [
            Message(
                command=command,
                state="alarm_ended",
                text=f"{name} is over",
                source=_name(source, names),
                counts={"alarm": name},
            )
            for name, source in before - now.keys()
        ]
        if messages:
            self._write(set(now), warn)
        return sorted(messages, key=lambda each: (each.state, each.text, each.source or ""))

    def _read(self) -> set[AlarmId]:
        if self._path is not None:
            try:
                with self._path.open("rb") as file:
                    rows = json.loads(file.read(_MOST_BYTES))
                self._known = {(str(name), str(source)) for name, source in rows}
            except FileNotFoundError:
                self._known = self._known or set()
            except (OSError, ValueError, TypeError):
                # If the file cannot be read, alarms are reported again.
                self._known = self._known or set()
        return set() if self._known is None else self._known

    def _write(self, alarms: set[AlarmId], warn: Callable[[str], None]) -> None:
        self._known = alarms
        try:
            if self._path is None:
                raise FileNotFoundError(2, "this user has no home")
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = f"{self._path}.{os.getpid()}"
            replace_file(OsFiles(), temporary, str(self._path), [json.dumps(sorted(alarms)).encode() + b"\n"])
        except OSError as error:
            warn(f"cannot save which alarms were sent ({error.strerror}), so they may be sent again")


def _text(alarm: Alarm) -> str:
    """Return an alarm's text for a message. Without a source, it is cut short: it could name this machine's folders."""
    return f"{alarm.name}: `kropotcli status` says more" if alarm.source is None else f"{alarm.name}: {alarm.text}"


def _name(source: str, names: Mapping[bytes, str]) -> str | None:
    return names.get(bytes.fromhex(source), source[:8]) if source else None
