"""The screen Space: what fills the storage, its growth, and what a policy would free. Pure, but queries the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kropot.page.health import FAR_DAYS
from kropot.page.life import WIDTH
from kropot.page.texts import T
from kropot.page.window import line_or_none, reading, rows, whole, whole_or_none
from kropot.wording import amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.page.window import Window

RULES: Final = ("last", "daily", "weekly", "monthly", "yearly", "min_age_days")
HEIGHT: Final = 160
_BARS: Final = 60


def room_screen(window: Window, asked: Mapping[str, int]) -> dict[str, Any]:
    """Return the values for the template. `asked` are the rules to try. Raises: KropotError."""
    space = window.get("space")
    known = window.get("sources")
    life = window.get("timeline", bars=_BARS)
    policy = window.get("policy", **asked)
    with reading("its space"):
        fills = space["fills"]
        elements = sum(whole(each["elements"]) for state, each in space["states"].items() if state != "vanished")
        names = {row["source"]: line_or_none(row["label"]) or row["source"][:8] for row in rows(known["sources"])}
        sources = [
            (names.get(row["source"], "?"), sum(whole(each["bytes"]) for each in row["states"].values()))
            for row in rows(space["sources"])
        ]
        parts = [] if fills is None else _parts(fills)
        stored = sum(size for _, size in sources)
        return {
            "elements": elements,
            "stored": stored,
            "parts": parts,
            "segments": _segments(parts),
            "is_bound": fills is None,
            "was_looked": fills is not None and fills["older"] is not None,
            "is_counting": fills is not None and fills.get("counted_at", 0) is None,
            "growth": None if fills is None else _growth(fills),
            "full_in": None if fills is None else _soon(whole_or_none(fills["full_in_days"])),
            "sources": sorted(sources, key=lambda each: -each[1]),
            "curve": curve([whole(each["bytes"]) for each in rows(life["bars"], 1000)]),
            "policy": _policy(policy),
            "asked": dict(asked),
            "height": HEIGHT,
            "width": WIDTH,
        }


def curve(sizes: list[int]) -> str:
    """Return the SVG path of an area that shows the running sum of these sizes, empty if nothing was stored. Pure."""
    total = sum(sizes)
    if not total:
        return ""
    step, at, points = WIDTH / len(sizes), 0, [f"M0 {HEIGHT}"]
    for number, size in enumerate(sizes, 1):
        at += size
        points.append(f"L{number * step:.1f} {HEIGHT - (HEIGHT - 4) * at / total:.1f}")
    return " ".join([*points, f"L{WIDTH} {HEIGHT} Z"])


def _parts(fills: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Return (kind, name, bytes) for each part of the storage whose size is known."""
    t = T["space"]
    other = [fills[name] for name in ("orphans", "quarantine", "unused_in_packs")]
    known = [whole(each["bytes"]) for each in other if each is not None]
    waiting = fills["waiting"]
    sizes = {
        "current": whole(fills["current"]),
        "older": whole_or_none(fills["older"]),
        "vanished": whole(fills["vanished"]),
        "waiting": None if waiting is None else whole(waiting["bytes"]),
        "other": sum(known) if known else None,
    }
    return [(kind, t[kind], size) for kind, size in sizes.items() if size is not None]


def _segments(parts: list[tuple[str, str, int]]) -> list[tuple[str, float, float]]:
    """Return (kind, x, width) for each part of a bar, in hundredths of the bar."""
    total, at, found = sum(size for *_, size in parts), 0.0, []
    for kind, _, size in parts:
        width = 100 * size / total if total else 0.0
        found.append((kind, round(at, 3), round(width, 3)))
        at += width
    return found


def _soon(days: int | None) -> int | None:
    return None if days is None or days > FAR_DAYS else days


def _growth(fills: dict[str, Any]) -> str:
    t, growth = T["space"], whole_or_none(fills["growth_per_day"])
    if growth is None:
        return t["growth_unknown"]
    return t["growth_day"].format(amount(growth)) if growth else t["growth_none"]


def _policy(policy: dict[str, Any]) -> dict[str, Any]:
    t = T["space"]
    which = policy["rules"]
    if which not in {"none", "recorded", "asked"}:
        raise ValueError(which)
    copies = whole(policy["copies"])
    frees = t["policy_frees"].format(copies=f"{copies:,}", bytes=amount(whole(policy["bytes"])))
    reasons = [
        (t["replaced"] if name == "replaced" else t["vanished_reason"], whole(each["objects"]), whole(each["bytes"]))
        for name, each in policy["reasons"].items()
    ]
    return {
        "which": which,
        "looked": bool(policy["looked"]),
        "is_counting": policy.get("counting") is True,
        "sentence": frees if copies else t["policy_nothing"],
        "reasons": reasons,
    }
