"""What a keeper says about its replica, strictly parsed. Nothing is trusted yet: `History` or `ProvedTree` judge it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kropot.errors import IntegrityError, ServerRefusedError
from kropot.query.past import KnownSource, Past
from kropot.replay.copies import HeldCopy
from kropot.restore.evidence import read_event, with_events
from ledger.answers import Tally
from ledger.codec import decode_payload
from ledger.errors import LedgerError
from ledger.events import Keeping, LedgerBegan, Source, StreamKey
from ledger.merkle import Frontier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.afar.client import KeeperClient
    from ledger.rows import StoredEvent

_SOURCE_BYTES: Final = 16
_HASH_BYTES: Final = 32
_LONGEST_ID: Final = 512
_LONGEST_LABEL: Final = 64
_MOST_SOURCES: Final = 10_000
_KIND: Final = re.compile(r"[a-z]{1,32}")
ROWS: Final = 1000


class BadAnswerError(IntegrityError):
    """A keeper's answer is not what the API promises."""

    http_status = 502

    def __init__(self, what: str) -> None:
        """Say which answer."""
        super().__init__(f"the keeper's answer about {what} does not conform to its API, so none of it was used")


class RemoteMoment(Struct, frozen=True, kw_only=True):
    """What WHEN means at a keeper: a position, and notes for the user."""

    position: int
    notes: tuple[str, ...]


class RemoteTree(Struct, frozen=True, kw_only=True):
    """The tree that a keeper claims: the ledger's id, the frontier, the first event, and the salts of the sources.

    `erased_at` is the position of the last erasure, 0 if there is none.
    """

    ledger_id: bytes
    frontier: Frontier
    first: StoredEvent
    salts: dict[bytes, bytes]
    erased_at: int


class RemoteSources(Struct, frozen=True, kw_only=True):
    """The sources that a keeper shows, and the sums over their elements. `is_all` says whether these are all."""

    known: dict[bytes, KnownSource]
    tallies: tuple[Tally, ...]
    is_all: bool


class AfarReplica:
    """A replica at a keeper."""

    def __init__(self, client: KeeperClient) -> None:
        """Ask this keeper."""
        self.client = client

    def moment(self, until: str | None) -> RemoteMoment:
        """Return what WHEN means. Raises: BadAnswerError, and as `KeeperClient.get`."""
        answer = self.client.get("moment", until=until)
        with _answering("a moment"):
            notes = tuple(_line(note) for note in _list(answer["notes"])[:10])
            return RemoteMoment(position=_count(answer["position"]), notes=notes)

    def tree(self) -> RemoteTree:
        """Return the tree of all events. Raises: BadAnswerError, and as `KeeperClient.get`."""
        answer = self.client.get("tree")
        if "first" not in answer:
            raise ServerRefusedError(
                f"the token for the keeper {self.client.base_url} is not an owner's, so it gives no sealed objects: "
                f"ask for one made by `keeper token create --role owner`"
            )
        with _answering("its tree"):
            frontier = Frontier.parse(_count(answer["size"]), bytes.fromhex(answer["frontier"]))
            if frontier.root.hex() != answer["root"]:
                raise ValueError("another root")
            first = read_event(answer["first"])
            began = decode_payload(first.type, first.schema_version, first.flags, first.payload or b"")
            if not isinstance(began, LedgerBegan):
                raise TypeError("another first event")
            salts = {_bytes(id_, _SOURCE_BYTES): _bytes(salt, _HASH_BYTES) for id_, salt in answer["salts"].items()}
            last = answer["erased"]["last_position"]
            return RemoteTree(
                ledger_id=began.ledger_id,
                frontier=frontier,
                first=first,
                salts=salts,
                erased_at=0 if last is None else _count(last),
            )

    def sources(self, position: int) -> RemoteSources:
        """Return the sources at a position. Raises: BadAnswerError, and as `KeeperClient.get`."""
        answer, me = self.client.get("sources", until=f"@{position}"), self.client.get("me")
        with _answering("its sources"):
            rows = _list(answer["sources"])[:_MOST_SOURCES]
            known = {each.id: each for each in map(_source, rows)}
            tallies = tuple(
                Tally(
                    source=_bytes(row["source"], _SOURCE_BYTES),
                    state=str(state),
                    elements=_count(sums["elements"]),
                    bytes=_count(sums["bytes"]),
                )
                for row in rows
                for state, sums in row["states"].items()
            )
            return RemoteSources(known=known, tallies=tallies, is_all=me["sources"] is None)

    def rows(
        self, source: bytes, position: int, *, since: int = 0, after: str | None = None, limit: int = ROWS
    ) -> Iterator[dict[str, Any]]:
        """Yield the elements of a source at a position, as the keeper's rows, in the order of their keys.

        Raises: BadAnswerError, and as `KeeperClient.get`.
        """
        asked = {"until": f"@{position}", "source": source.hex(), "events": True, "limit": limit}
        before = source
        while True:
            answer = self.client.get("elements", **asked, since=since or None, after=after)
            with _answering("elements"):
                rows = [_row(each) for each in _list(answer["elements"])]
                following = answer["next"]
                keys = [row_key(each).stored for each in rows]
                # A keeper that sends the same page forever would hold us forever.
                if any(key <= last for last, key in zip([before, *keys], keys, strict=False)):
                    raise ValueError("rows out of order")
                if following is not None and following == after:
                    raise ValueError("the same page again")
            yield from rows
            before = keys[-1] if keys else before
            if following is None:
                return
            with _answering("elements"):
                went_on = _cursor(following)
                if went_on < before:
                    raise ValueError("a page that came before")
                before = went_on
            after = following

    def element(self, key: StreamKey, position: int, size: int) -> tuple[HeldCopy, list[tuple[bytes, ...]]]:
        """Return one element at a position, and for each of its events the path to the root over `size` events.

        Raises: NotAtKeeperError if it is not there; BadAnswerError, and as `KeeperClient.get`.
        """
        names = (key.source.hex(), key.kind, key.id)
        answer = self.client.get("elements", *names, until=f"@{position}", size=size)
        with _answering("an element"):
            row = _row(answer["element"])
            if row_key(row) != key:
                raise ValueError("another element")
            paths = [tuple(_bytes(node, _HASH_BYTES) for node in _list(path)) for path in _list(answer["paths"])]
            return held_of_row(row, is_past=False), paths

    def growth(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the path that proves that a tree grew into another. Raises: BadAnswerError, and as `get`."""
        answer = self.client.get("consistency", old=old, new=new)
        with _answering("the growth of its tree"):
            return tuple(_bytes(node, _HASH_BYTES) for node in _list(answer["path"]))


def row_key(row: dict[str, Any]) -> StreamKey:
    """Return the element that a row is about."""
    return StreamKey(source=bytes.fromhex(row["source"]), kind=row["type"], id=row["id"])


def held_of_row(row: dict[str, Any], *, is_past: bool) -> HeldCopy:
    """Return the copy that a row's events describe. Nothing else in the row but its key is used."""
    blank = HeldCopy(
        key=row_key(row),
        form=b"{}",
        date=0,
        tz="",
        state="",
        sha256=None,
        size=0,
        iv=None,
        is_older=False,
        is_past=is_past,
    )
    return with_events(blank, row["events"], stored=False)


# --- reading ---------------------------------------------------------------------------------------------------------


class _answering:  # noqa: N801 - a context manager, named as one reads it
    """Turns every error that an answer of another shape raises into BadAnswerError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, ValueError | TypeError | KeyError | AttributeError | IndexError | LedgerError):
            raise BadAnswerError(self._what) from None


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a row that are used, checked. Raises: ValueError, TypeError, KeyError."""
    source, kind, id_ = row["source"], row["type"], row["id"]
    _bytes(source, _SOURCE_BYTES)
    if not isinstance(kind, str) or not _KIND.fullmatch(kind) or not isinstance(id_, str) or len(id_) > _LONGEST_ID:
        raise ValueError(row)
    id_.encode()
    return {"source": source, "type": kind, "id": id_, "events": _list(row["events"])}


def _cursor(text: str) -> bytes:
    """Return the stored key that a cursor means. Raises: ValueError."""
    source, kind, id_ = text.split("/", 2)
    return StreamKey(source=_bytes(source, _SOURCE_BYTES), kind=kind, id=id_).stored


def _source(row: dict[str, Any]) -> KnownSource:
    past = row["past"]
    listed = row["listed_us"]
    label = row["label"]
    vault = row["vault"]
    return KnownSource(
        id=_bytes(row["source"], _SOURCE_BYTES),
        source=Source(
            salt=bytes(_HASH_BYTES),
            token_mac=bytes(_HASH_BYTES),
            urls=(_line(row["url"]),),
            opaque=None,
            zone=None,
            cursor=None,
            zone_shifts=(),
            listed_us=None if listed is None else int(listed),
            full_listed_us=None,
            held=None,
            surge=None,
            churn=(),
            unlistable=(),
        ),
        began_us=int(row["began_us"]),
        keeping=Keeping(label=None if label is None else _line(label)[:_LONGEST_LABEL]),
        past=None if past is None else Past(why="retired" if past["why"] == "retired" else "taken_over", since_us=0),
        vault=None if vault is None else _bytes(vault, _SOURCE_BYTES),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(value)
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(value)
    return value


def _bytes(text: Any, length: int) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != length:
        raise ValueError(text)
    return value


def _line(text: Any) -> str:
    """Return foreign text in a form that can be shown on a terminal."""
    return "".join(each if each.isprintable() else "?" for each in str(text)[:500])
