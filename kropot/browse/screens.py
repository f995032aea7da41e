"""The owner's screens: files by name, a comparison of two moments, and proofs. No other screen opens anything."""

from __future__ import annotations

import heapq
import shlex
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from kropot.browse.contents import content, is_checked_early, preview, pumped, zipped
from kropot.errors import KropotError
from kropot.page.asking import NoSuchPageError, link
from kropot.page.listing import versions
from kropot.page.texts import T
from kropot.page.when import shown
from kropot.sc2.form import Kind
from kropot.wording import amount, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.browse.files import OpenedMoment, Opening, OwnerFiles
    from kropot.browse.names import Child, NamedFile
    from kropot.page.asking import PageQuery
    from kropot.page.window import Window

ROWS: Final = 200
HITS: Final = 200
DIFFERENCES: Final = 500
_PATIENCE_S: Final = 1.0
_PREVIEW_UP_TO: Final = 64 << 20
_SEALINGS: Final = {"sc2": "authentic", "cbc": "not authenticated: AES-CBC", "plain": "not sealed"}


class OwnerScreens:
    """The screens for the owner only. `command` is the `kropotcli restore` command that reaches this replica."""

    def __init__(self, files: OwnerFiles, command: Sequence[str]) -> None:
        """Show these files."""
        self._files = files
        self._command = tuple(command)

    def files(self, window: Window, query: PageQuery, position: int) -> dict[str, Any]:
        """Return the values for the screen Files. Raises: KropotError."""
        moment = self._files.at(position)
        moment.done.wait(_PATIENCE_S)
        told = self._told(moment.opening)
        if not moment.opening.is_done or told["kind"] != "owner":
            return told
        folder, gone, wanted = query.path("folder"), query.flag("gone"), query.text("q").strip()
        chosen = query.path("sel")
        names = moment.opening.names
        here: dict[str, Any] = {"at": position, "gone": gone}
        if wanted:
            found = names.search(wanted, most=HITS + 1, gone=gone)
            rows = [self._row(each.path, each, chosen, **here, q=wanted) for each in found[:HITS]]
            more, count = None, len(found)
        else:
            children = list(islice(names.children(folder, start=query.whole("from") or 0, gone=gone), ROWS + 1))
            rows = [self._child(each, chosen, folder=folder, **here) for each in children[:ROWS]]
            is_more = len(children) > ROWS
            more = link("files", folder=folder, **{"from": children[ROWS - 1].following}, **here) if is_more else None
            count = len(rows)
        return told | {
            "crumbs": _crumbs(folder, here),
            "folder": written(folder),
            "rows": rows,
            "more": more,
            "count": count,
            "is_cut": count > HITS and bool(wanted),
            "q": wanted,
            "gone": gone,
            "toggle_gone": link("files", at=position, folder=folder, q=wanted, gone=not gone),
            "zip": link("zip", at=position, folder=folder, gone=gone) if len(names) else None,
            "folder_command": self._restore(moment, folder, gone=gone),
            "is_top": not folder,
            "total": len(names),
            "side": self._side(window, moment, chosen, query) if chosen else None,
        }

    def compared(self, query: PageQuery, positions: tuple[int, int]) -> dict[str, Any]:
        """Return what changed between two positions, the earlier one first. Raises: KropotError."""
        moments = [self._files.at(each) for each in sorted(positions)]
        for each in moments:
            each.done.wait(_PATIENCE_S)
        for each in moments:
            told = self._told(each.opening)
            if told["kind"] != "owner":
                return told
        del query
        one, other = (each.opening.names.below(b"") for each in moments)
        found = list(islice(_differences(one, other), DIFFERENCES + 1))
        at = moments[1].opening.position
        return {
            "kind": "owner",
            "rows": [
                {"change": change, "name": written(path), "href": link("files", at=at, sel=path, folder=_above(path))}
                for change, path in found[:DIFFERENCES]
            ],
            "is_cut": len(found) > DIFFERENCES,
        }

    def proved(self, position: int) -> dict[str, Any]:
        """Return what is proved about the replica at a position. Raises: KropotError."""
        moment = self._files.at(position)
        moment.done.wait(_PATIENCE_S)
        opening = moment.opening
        told = self._told(opening)
        sealing = "; ".join(
            f"{opening.sealed[kind]:,} {words}" for kind, words in _SEALINGS.items() if opening.sealed[kind]
        )
        counts = T["proof"]["counts"].format(
            named=f"{sum(opening.sealed.values()):,}", refused=f"{opening.refused:,}", unopened=f"{opening.unopened:,}"
        )
        said = [each[:1].upper() + each[1:] for each in opening.said]
        return told | {"sealing": sealing or "-", "said": said, "counts": counts}

    # --- contents -----------------------------------------------------------------------------------------------------

    def download(self, query: PageQuery, position: int) -> tuple[str, Iterator[bytes]]:
        """Return a file's name, and an iterator over its plain bytes. Raises: KropotError, also while iterating."""
        moment, file = self._found(query, position)
        held = moment.held(file)
        at = query.position("version")
        if at is not None:
            older = self._files.replica.version(held.key, at)
            if older is None or older.refused is not None:
                raise NoSuchPageError("there is no such version" if older is None else str(older.refused))
            held = older
        opened = moment.opened(held)
        name = b"/".join(opened.claim.path).rpartition(b"/")[2]
        return written(name), pumped(
            lambda write: content(held, opened, moment.copies, lambda data: write(bytes(data)))
        )

    def folder(self, query: PageQuery, position: int) -> tuple[str, Iterator[bytes]]:
        """Return a name for a zip of a folder, and an iterator over it. Raises: KropotError, also while iterating."""
        moment = self._ready(position)
        folder, gone = query.path("folder"), query.flag("gone")
        if next(moment.opening.names.below(folder, gone=gone), None) is None:
            raise NoSuchPageError(T["error"]["no_such"])
        name = written(folder.rpartition(b"/")[2]) or "files"
        return f"{name}.zip", pumped(lambda write: zipped(moment, folder, write, gone=gone))

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _ready(self, position: int) -> OpenedMoment:
        moment = self._files.at(position)
        moment.done.wait()
        if moment.opening.trouble is not None:
            raise KropotError(moment.opening.trouble)
        return moment

    def _found(self, query: PageQuery, position: int) -> tuple[OpenedMoment, NamedFile]:
        moment = self._ready(position)
        file = moment.opening.names.find(query.path("path"))
        if file is None or file.kind is not Kind.FILE:
            raise NoSuchPageError(T["error"]["no_such"])
        return moment, file

    def _told(self, opening: Opening) -> dict[str, Any]:
        t = T["files"]
        if opening.trouble is not None:
            return {"kind": "trouble", "trouble": opening.trouble}
        if not opening.is_done:
            return {"kind": "opening", "opening": t["opening"].format(f"{opening.count:,}")}
        if opening.is_wrong_kit:
            return {"kind": "wrong", "wrong": t["wrong_kit_why"].format(f"{opening.unopened:,}")}
        counted = (("refused", opening.refused), ("hidden", opening.hidden), ("unopened", opening.unopened))
        return {"kind": "owner", "warnings": [t[name].format(f"{count:,}") for name, count in counted if count]}

    def _child(self, child: Child, chosen: bytes, *, folder: bytes, at: int, gone: bool) -> dict[str, Any]:
        if child.is_folder:
            href = link("files", at=at, folder=child.path, gone=gone)
            is_gone = child.file is not None and child.file.is_gone
            return {"name": written(child.name), "href": href, "is_folder": True, "is_gone": is_gone}
        return self._row(child.path, child.file, chosen, name=child.name, folder=folder, at=at, gone=gone)

    def _row(
        self, path: bytes, file: NamedFile | None, chosen: bytes, *, name: bytes | None = None, **here: Any
    ) -> dict[str, Any]:
        if file is None:
            raise NoSuchPageError(T["error"]["no_such"])
        return {
            "name": written(path if name is None else name),
            "href": link("files", sel=path, **here) + "#side",
            "is_folder": False,
            "is_gone": file.is_gone,
            "is_bad": file.state in {"damaged", "lost"},
            "is_chosen": path == chosen,
            "size": amount(file.size) if file.kind is Kind.FILE else T["files"][file.kind.value],
            "at": shown(None if file.mtime_ns is None else file.mtime_ns // 1000),
            "note": None if file.is_stored else T["files"]["not_stored"],
        }

    def _side(self, window: Window, moment: OpenedMoment, path: bytes, query: PageQuery) -> dict[str, Any] | None:
        file = moment.opening.names.find(path)
        if file is None:
            return None
        t, position = T["files"], moment.opening.position
        held = moment.held(file)
        cursor = f"{held.key.source.hex()}/{held.key.kind}/{held.key.id}"
        try:
            events = versions(window, cursor)
        except KropotError:
            events = []  # show the owner's files even if the keeper does not send their history
        opened = moment.opened(held)
        is_file = file.kind is Kind.FILE and held.sha256 is not None
        sealed = opened.claim.sealed
        target = None if sealed is None or sealed.target is None else written(sealed.target)
        side: dict[str, Any] = {
            "name": written(path.rpartition(b"/")[2]),
            "path": written(path),
            "kind": t[file.kind.value],
            "size": amount(file.size),
            "at": shown(None if file.mtime_ns is None else file.mtime_ns // 1000),
            "state": T["state"].get(file.state, file.state),
            "is_gone": file.is_gone,
            "target": target,
            "sealing": t["checked"] if is_checked_early(opened) else t["checked_hash"],
            "download": link("download", at=position, path=path) if is_file else None,
            "read": link(
                "files", at=position, folder=query.path("folder"), sel=path, gone=query.flag("gone"), read=True
            )
            if is_file and file.size <= _PREVIEW_UP_TO
            else None,
            "command": self._restore(moment, path, gone=file.is_gone),
            "versions": [
                each
                | {
                    "download": link("download", at=position, path=path, version=each["position"])
                    if each["is_copy"]
                    else None,
                    "look": link("files", at=each["position"], folder=query.path("folder"), sel=path),
                }
                for each in events
            ],
            "close": link(
                "files", at=position, folder=query.path("folder"), q=query.text("q"), gone=query.flag("gone")
            ),
            "text": None,
            "note": None,
        }
        if query.flag("read") and is_file:
            text, is_all = preview(held, opened, moment.copies)
            side["text"] = text
            side["note"] = t["not_text"] if text is None else None if is_all else t["too_long"]
        return side

    def _restore(self, moment: OpenedMoment, path: bytes, *, gone: bool) -> str:
        source, path = moment.within(path)
        parts = [*self._command, "--until", f"@{moment.opening.position}", "--to", "restored"]
        parts += [] if source is None else ["--source", source.hex()]
        parts += ["--vanished"] if gone else []
        parts += ["--", written(path)] if path else []
        return shlex.join(parts)


def _differences(one: Iterator[NamedFile], other: Iterator[NamedFile]) -> Iterator[tuple[str, bytes]]:
    """Yield what is new, gone or changed, in the order of paths. Vanished elements count as gone. Pure."""
    merged = heapq.merge(((each.path, 0, each) for each in one), ((each.path, 1, each) for each in other), key=_place)
    before: NamedFile | None = None
    for path, which, file in merged:
        if which == 0:
            if before is not None and not before.is_gone:
                yield "removed", before.path
            before = file
            continue
        old = before if before is not None and before.path == path else None
        if before is not None and old is None and not before.is_gone:
            yield "removed", before.path
        before = None
        was, now = old is not None and not old.is_gone, not file.is_gone
        if was and now and old is not None and old.mark != file.mark:
            yield "altered", path
        elif was and not now:
            yield "removed", path
        elif now and not was:
            yield "added", path
    if before is not None and not before.is_gone:
        yield "removed", before.path


def _place(each: tuple[bytes, int, NamedFile]) -> tuple[bytes, int]:
    return each[:2]


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _crumbs(folder: bytes, here: dict[str, Any]) -> list[tuple[str, str]]:
    parts = folder.split(b"/") if folder else []
    above = [
        (written(part), link("files", folder=b"/".join(parts[:count]), **here)) for count, part in enumerate(parts, 1)
    ]
    return [(T["files"]["top"], link("files", **here)), *above]
