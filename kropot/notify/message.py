"""The content of a call: a run began, went well or failed, or an alarm began or ended. Counts, never names of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from kropot.secret import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

State = Literal["start", "success", "fail", "alarm_began", "alarm_ended"]


class Message(Struct, frozen=True, kw_only=True):
    """One call. `command` is `collect`, `verify`, `prune` or `status`; `source` is a label or the beginning of an id.

    `text` is a sentence. `counts` are numbers and stable words. Neither holds a token, a key, or a name of a file.
    """

    command: str
    state: State
    text: str
    source: str | None = None
    counts: Mapping[str, int | float | str | bool | None] = field(default_factory=dict)

    @property
    def is_alarm(self) -> bool:
        """Whether this is about an alarm, not about a run or a round."""
        return self.state in {"alarm_began", "alarm_ended"}

    @property
    def title(self) -> str:
        """The first line of a message to a person."""
        what = {
            "start": "began",
            "success": "done",
            "fail": "FAILED",
            "alarm_began": "alarm",
            "alarm_ended": "alarm over",
        }[self.state]
        about = "" if self.source is None else f" ({self.source})"
        return redact(f"kropotcli {self.command}: {what}{about}")

    @property
    def body(self) -> str:
        """The sentence, and a line for each count."""
        lines = [self.text, *(f"{name}: {value}" for name, value in self.counts.items())]
        return redact("\n".join(lines))

    def json(self) -> dict[str, Any]:
        """Return the JSON for a command hook."""
        return {
            "version": 1,
            "command": self.command,
            "state": self.state,
            "source": self.source,
            "text": redact(self.text),
            "counts": dict(self.counts),
        }
