"""The screen Time: bars for what the rounds found, and the striking moments. Pure, except that it queries the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kropot.page.texts import T
from kropot.page.when import shown
from kropot.page.window import line_or_none, reading, rows, whole
from kropot.wording import amount

if TYPE_CHECKING:
    from kropot.page.window import Window

BARS: Final = 90
WIDTH, UP, DOWN, VOLUME = 900, 150, 60, 54
_GAP: Final = 8
_MASS_SHARE: Final = 0.1
_MASS_COUNT: Final = 5
_FEW_FIRST: Final = 30


class DrawnBar(Struct, frozen=True, kw_only=True):
    """One bar: its place, the heights of its parts (pixels), and its label. `zoom` is its start and end (ms)."""

    x: float
    width: float
    new: float
    changed: float
    gone: float
    stored: float
    label: str
    position: int
    zoom: tuple[int, int]
    is_held: bool
    is_chosen: bool
    is_empty: bool


def life_screen(
    window: Window, *, source: str | None, from_ms: int | None, to_ms: int | None, at: int | None
) -> dict[str, Any]:
    """Return the values for the template. Raises: KropotError."""
    known = window.get("sources")
    life = window.get("timeline", source=source, from_ms=from_ms, to_ms=to_ms, bars=BARS)
    with reading("its past"):
        names = [(row["source"], line_or_none(row["label"]) or row["source"][:8]) for row in rows(known["sources"])]
        bars = [_checked(each) for each in rows(life["bars"], 1000)]
        began, ended = whole(life["began_us"]), whole(life["ended_us"])
    full = [each for each in bars if each["rounds"]]
    return {
        "sources": names,
        "source": source,
        "is_empty": not full and from_ms is None,
        "bars": drawn(bars, at),
        "striking": striking(bars),
        "moments": [_moment(each) for each in reversed(full)][:_FEW_FIRST],
        "is_zoomed": from_ms is not None or to_ms is not None,
        "wider": _wider(bars, began, ended),
        "from_": shown(bars[0]["start_us"]),
        "to": shown(bars[-1]["end_us"]),
        "size": {"width": WIDTH, "height": UP + DOWN + VOLUME + 2 * _GAP, "line": UP, "volume": UP + DOWN + _GAP},
        "volume_height": VOLUME,
    }


def drawn(bars: list[dict[str, int]], at: int | None) -> list[DrawnBar]:
    """Return the bars to draw. Heights grow with the square root, so that small bars stay visible. Pure."""
    up = max((each["new"] + each["changed"] for each in bars), default=0)
    down = max((each["gone"] for each in bars), default=0)
    stored = max((each["bytes"] for each in bars), default=0)
    step = WIDTH / max(1, len(bars))
    chosen = next((n for n, each in enumerate(bars) if at is not None and each["position"] >= at), None)
    found = []
    for number, each in enumerate(bars):
        came = each["new"] + each["changed"]
        height = _height(came, up, UP - 6)
        new = height * each["new"] / came if came else 0.0
        found.append(
            DrawnBar(
                x=round(number * step, 2),
                width=round(max(step - 2, 1.5), 2),
                new=round(new, 2),
                changed=round(height - new, 2),
                gone=round(_height(each["gone"], down, DOWN - 4), 2),
                stored=round(_height(each["bytes"], stored, VOLUME - 4), 2),
                label=_label(each),
                position=each["position"],
                zoom=_zoom(each),
                is_held=each["held"] > 0,
                is_chosen=number == chosen,
                is_empty=not each["rounds"],
            )
        )
    return found


def striking(bars: list[dict[str, int]]) -> list[dict[str, Any]]:
    """Return the bars of mass deletions, of mass changes, and of listings that were held back. Pure."""
    t = T["time"]
    found = []
    known = 0
    for each in bars:
        size = max(known, each["seen"], 1)
        few = _MASS_COUNT
        if each["gone"] > max(few, _MASS_SHARE * size):
            found.append(_striking(each, "gone", t["mass_gone"].format(f"{each['gone']:,}")))
        if known and each["changed"] > max(few, 3 * _MASS_SHARE * size):
            found.append(_striking(each, "changed", t["mass_changed"].format(f"{each['changed']:,}")))
        if each["held"]:
            found.append(_striking(each, "held", t["was_held"]))
        known = max(known, each["seen"])
    return found


def _striking(bar: dict[str, int], kind: str, text: str) -> dict[str, Any]:
    return {"kind": kind, "text": text, "at": shown(bar["start_us"]), "zoom": _zoom(bar)}


def _moment(bar: dict[str, int]) -> dict[str, Any]:
    return {**bar, "at": shown(bar["end_us"])}


def _height(value: int, most: int, pixels: int) -> float:
    return 0.0 if not value or not most else max(3.0, pixels * (value / most) ** 0.5)


def _label(bar: dict[str, int]) -> str:
    return T["time"]["bar"].format(
        from_=shown(bar["start_us"]),
        to=shown(bar["end_us"]),
        new=f"{bar['new']:,}",
        changed=f"{bar['changed']:,}",
        gone=f"{bar['gone']:,}",
        bytes=amount(bar["bytes"]),
    )


def _wider(bars: list[dict[str, int]], began: int, ended: int) -> tuple[int, int] | None:
    start, end = bars[0]["start_us"], bars[-1]["end_us"]
    length = end - start
    if start <= began and end >= ended:
        return None
    return max(began, start - length * 2) // 1000, -(-min(ended + 1, end + length * 2) // 1000)


def _zoom(bar: dict[str, int]) -> tuple[int, int]:
    """Return the start and end of a bar in milliseconds, as used in links."""
    return bar["start_us"] // 1000, -(-bar["end_us"] // 1000)


def _checked(row: dict[str, Any]) -> dict[str, int]:
    names = ("start_us", "end_us", "rounds", "new", "changed", "gone", "held", "seen", "bytes", "position")
    return {name: whole(row[name]) for name in names}
