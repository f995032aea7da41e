"""The screen Health: one sentence, what to do, and each source. Pure, except that it queries the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kropot.page.rendering import commands_in
from kropot.page.texts import T
from kropot.page.when import ago, shown, us_of
from kropot.page.window import line, line_or_none, reading, rows, share, whole, whole_or_none
from kropot.wording import SECOND_US, amount

if TYPE_CHECKING:
    from kropot.page.window import Window

GRAVE: Final = frozenset(
    {
        "beyond_help",
        "drill_failed",
        "history_differs",
        "many_failing",
        "objects_missing",
        "storage_away",
        "storage_full",
        "surge",
        "unlistable",
        "vanishing_held",
    }
)
"""The alarms that mean that copies are at risk. The others only need attention."""

FAR_DAYS: Final = 20 * 365
_MOST_SOURCES: Final = 200


def health_screen(window: Window, now_us: int) -> dict[str, Any]:
    """Return the values for the template. Raises: KropotError."""
    status = window.get("status")
    checkpoints = window.get("checkpoints")
    fills = window.get("space")["fills"]
    with reading("its status"):
        alarms = [_alarm(each, now_us) for each in rows(status["alarms"])]
        names = {row["source"]: line_or_none(row["label"]) or row["source"][:8] for row in rows(status["sources"])}
        for alarm in alarms:
            alarm["where"] = names.get(alarm["source"])
        stale = {each["source"] for each in alarms if each["name"] == "listing_stale"}
        sources = [_source(each, now_us, stale) for each in rows(status["sources"])[:_MOST_SOURCES]]
        elements = sum(each["elements"] for each in sources if not each["is_past"])
        size = sum(each["bytes"] for each in sources if not each["is_past"])
        recorded = us_of(status["recorded"])
        t = T["health"]
        return {
            **_verdict(alarms, elements),
            "alarms": alarms,
            "sources": sources,
            "more_sources": max(0, len(status["sources"]) - _MOST_SOURCES),
            "detail": t["detail"].format(
                elements=f"{elements:,}",
                bytes=amount(size),
                sources="1 source" if len(sources) == 1 else f"{len(sources)} sources",
                ago=ago(recorded, now_us),
            ),
            "facts": _facts(status, fills, rows(checkpoints["checkpoints"]), now_us),
        }


def _verdict(alarms: list[dict[str, Any]], elements: int) -> dict[str, str]:
    t, grave = T["health"], sum(each["is_grave"] for each in alarms)
    if any(each["name"] == "never_collected" for each in alarms):
        return {"colour": "grey", "sentence": t["grey"]}
    if grave:
        return {"colour": "red", "sentence": t["red_one"] if grave == 1 else t["red"].format(grave)}
    if alarms:
        return {"colour": "amber", "sentence": t["amber_one"] if len(alarms) == 1 else t["amber"].format(len(alarms))}
    return {"colour": "green", "sentence": t["green"] if elements else t["green_empty"]}


def _alarm(row: dict[str, Any], now_us: int) -> dict[str, Any]:
    text, since = line(row["text"], 1000), us_of(row["since"])
    return {
        "name": line(row["name"]),
        "is_grave": row["name"] in GRAVE,
        "source": row["source"],
        "text": text[:1].upper() + text[1:],
        "commands": commands_in(text),
        "since": None if since is None else ago(since, now_us),
    }


def _source(row: dict[str, Any], now_us: int, stale: set[str]) -> dict[str, Any]:
    t = T["health"]
    source = line(row["source"], 32)
    states = row["states"]
    failing = row["failing"]
    reasons = ", ".join(line(each, 60).replace("_", " ") for each in failing["reasons"])
    count = whole(failing["about"])
    listed = us_of(row["listed"])
    drill = row["drill"]
    is_past = row["past"] is not None
    apart_s = whole_or_none(row.get("round_s"))  # a keeper of an earlier version does not send it
    next_us = None if listed is None or is_past or apart_s is None else listed + apart_s * SECOND_US
    return {
        "id": source,
        "label": line_or_none(row["label"]) or source[:8],
        "url": line(row["url"]),
        "is_past": is_past,
        "elements": sum(whole(each["elements"]) for state, each in states.items() if state != "vanished"),
        "bytes": sum(whole(each["bytes"]) for each in states.values()),
        "listed": ago(listed, now_us),
        "listed_at": shown(listed),
        "next": t["overdue"] if source in stale else _next_text(next_us, now_us),
        "is_late": source in stale,
        "failing": t["failing_none"] if not count else t["failing_some"].format(f"{count:,}", reasons),
        "is_failing": count > 0,
        "drill": _drill(drill, now_us),
        "is_drill_bad": drill is not None and whole(drill["failed"]) > 0,
    }


def _next_text(next_us: int | None, now_us: int) -> str:
    t = T["health"]
    if next_us is None:
        return t["next_unknown"]
    return ago(next_us, now_us) if next_us > now_us else t["due"]


def _drill(drill: dict[str, Any] | None, now_us: int) -> str:
    t = T["health"]
    if drill is None:
        return t["drill_never"]
    at, failed = ago(us_of(drill["at"]), now_us), whole(drill["failed"])
    return t["drill_bad" if failed else "drill_good"].format(failed=failed, opened=whole(drill["opened"]), ago=at)


def _facts(
    status: dict[str, Any], fills: dict[str, Any] | None, checkpoints: list[dict[str, Any]], now_us: int
) -> list[tuple[str, str]]:
    t = T["health"]
    storage = status["storage"]
    free = None if storage is None else whole_or_none(storage["free_bytes"])
    days = None if fills is None else whole_or_none(fills["full_in_days"])
    growth = None if fills is None else whole_or_none(fills["growth_per_day"])
    full = t["full_unknown"] if growth is None or free is None else t["full_never"]
    never = share(status["audit"]["never_read"])
    verified = t["verified_part"].format(f"{never * 100:.0f}") if never else t["verified_all"]
    signed = t["checkpoint_none"]
    if checkpoints:
        last = checkpoints[-1]
        at = us_of(last["recorded_at"])
        signed = t["checkpoint_at"].format(size=f"{whole(last['size']):,}", ago=ago(at, now_us))
    return [
        (t["free"], t["free_unknown"] if free is None else amount(free)),
        (t["full"], full if days is None else t["full_far"] if days > FAR_DAYS else t["full_in"].format(f"{days:,}")),
        (t["verified"], verified.format(shown(us_of(status["audited_since"])))),
        (t["checkpoint"], signed),
    ]
