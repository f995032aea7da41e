"""The screen Files at the keeper: ids, states and sealed sizes, for visitors who may see elements. It has no names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kropot.page.asking import link
from kropot.page.texts import T
from kropot.page.when import shown, us_of
from kropot.page.window import line, reading, rows, whole, whole_or_none
from kropot.wording import amount

if TYPE_CHECKING:
    from kropot.page.asking import PageQuery
    from kropot.page.window import Window

ROWS: Final = 100
EVENTS: Final = 50
COPIES: Final = frozenset({"CopyStored", "RemoteCopied"})


def listing_screen(window: Window, query: PageQuery, position: int) -> dict[str, Any]:
    """Return the values for the template. Raises: KropotError."""
    after, chosen = query.cursor(), query.text("sel")
    answer = window.get("elements", until=f"@{position}", after=after, limit=ROWS)
    with reading("its elements"):
        found = [_row(each, position, after, chosen) for each in rows(answer["elements"], ROWS)]
        following = answer["next"]
        if following is not None:
            following = link("files", at=position, after=line(following, 700))
    return {
        "kind": "sealed",
        "rows": found,
        "more": following,
        "first": None if after is None else link("files", at=position),
        "chosen": next((each for each in found if each["is_chosen"]), None),
        "versions": versions(window, chosen) if chosen else [],
    }


def versions(window: Window, cursor: str) -> list[dict[str, Any]]:
    """Return the events about one element, the newest first, as the window claims them. Raises: KropotError."""
    source, _, rest = cursor.partition("/")
    kind, _, id_ = rest.partition("/")
    found, after = [], None
    while True:
        answer = window.get("elements", source, kind, id_, "history", limit=EVENTS, after=after)
        with reading("an element's history"):
            events = rows(answer["events"], EVENTS)
            found += [_event(each) for each in events]
            after = whole_or_none(answer["next"])
        if after is None or not events or len(found) >= EVENTS * 4:
            return found[::-1]


def _event(row: dict[str, Any]) -> dict[str, Any]:
    name = line(row["event"], 60)
    size = row.get("size")
    return {
        "what": T["event"].get(name, name),
        "is_copy": name in COPIES,
        "position": whole(row["position"]),
        "at": shown(us_of(row["recorded_at"])),
        "size": None if size is None else amount(whole(size)),
    }


def _row(row: dict[str, Any], position: int, after: str | None, chosen: str) -> dict[str, Any]:
    cursor = f"{line(row['source'], 32)}/{line(row['type'], 32)}/{line(row['id'], 512)}"
    size = whole_or_none(row["size"])
    state = line(row["state"], 20)
    return {
        "id": line(row["id"], 512),
        "state": T["state"].get(state, state),
        "is_gone": state == "vanished",
        "is_bad": state in {"damaged", "lost"},
        "size": "" if size is None else amount(size),
        "at": shown(us_of(row["recorded_at"])),
        "href": link("files", at=position, after=after, sel=cursor) + "#side",
        "is_chosen": cursor == chosen,
    }
