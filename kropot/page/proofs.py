"""The screen Proof: which contents were read and when, and the checkpoints. Pure, except that it queries the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kropot.page.texts import T
from kropot.page.when import shown, us_of
from kropot.page.window import line, reading, rows, share, whole
from ledger.clock import DAY_US

if TYPE_CHECKING:
    from kropot.page.window import Window

_OLD_DAYS: Final = (1, 7, 30)
_MOST_RANGES: Final = 400
_MOST_CHECKPOINTS: Final = 50
_SPACE: Final = 1 << 256


def proof_screen(window: Window, now_us: int) -> dict[str, Any]:
    """Return the values for the template. Raises: KropotError."""
    coverage = window.get("coverage")
    tree = window.get("tree")
    signed = window.get("checkpoints")
    with reading("its proofs"):
        ranges = rows(coverage["ranges"])
        never = share(coverage["never_read"])
        by = us_of(coverage["all_read_by"])
        t = T["proof"]
        part = t["coverage_part"].format(f"{never * 100:.0f}")
        whole_ = t["coverage_all"].format(shown(us_of(coverage["audited_since"])))
        erased = tree["erased"]
        return {
            "strip": strip(ranges, now_us),
            "ranges": [
                {"read": shown(us_of(each["read"])), "share": f"{share(each['share']) * 100:.1f} %"}
                for each in reversed(ranges[-12:])
            ],
            "is_unread": not ranges,
            "coverage": part if never else whole_,
            "by": None if by is None or not never else t["by"].format(shown(by)),
            "size": whole(tree["size"]),
            "root": line(tree["root"], 64),
            "origin": line(tree["origin"], 200),
            "erased": None
            if not whole(erased["elements"])
            else t["erased"].format(payloads=whole(erased["payloads"]), elements=whole(erased["elements"])),
            "checkpoints": [
                {
                    "size": whole(each["size"]),
                    "root": line(each["root"], 64),
                    "at": shown(us_of(each["recorded_at"])),
                }
                for each in reversed(rows(signed["checkpoints"])[-_MOST_CHECKPOINTS:])
            ],
        }


def strip(ranges: list[dict[str, Any]], now_us: int) -> list[dict[str, Any]]:
    """Return the parts of the strip, the oldest first, so that newer ones cover them. Pure. Raises: ValueError."""
    found = []
    for each in ranges[-_MOST_RANGES:]:
        start, end = int(each["start"], 16) / _SPACE, (int(each["end"], 16) + 1) / _SPACE
        at = us_of(each["read"]) or 0
        if not 0 <= start <= end <= 1:
            raise ValueError(each)
        days = max(0, now_us - at) // DAY_US
        age = sum(days >= limit for limit in _OLD_DAYS)
        found.append(
            {
                "x": round(start * 1000, 2),
                "width": round(max((end - start) * 1000, 1), 2),
                "age": age,
                "read": shown(at),
            }
        )
    return found
