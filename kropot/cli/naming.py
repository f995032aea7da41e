"""The option `--key` of the listing commands, which opens names, finds elements by name, and sorts by name."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from kropot.cli.base import warn
from kropot.cli.passphrases import passphrase_option
from kropot.cli.paths import PATH
from kropot.errors import UsageError
from kropot.query.names import (
    FILE_KIND,
    MOST_LISTED,
    find_beginning,
    find_element,
    find_id,
    is_like_an_id,
    listed,
    none_found,
    short_name,
    split_source,
)
from kropot.query.past import labels_of
from kropot.query.render import element_of
from kropot.wording import as_written, number, one_line, written
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from pathlib import Path

    from kropot.query.names import Labels
    from kropot.restore.naming import Namer
    from kropot.restore.opener import Key
    from ledger.events import Element
    from ledger.log import Ledger
    from ledger.replica import Event

    Item = TypeVar("Item")

NAMED: Final = "KIT.json is the kit of the token or vault. Can be repeated."


class Name(NamedTuple):
    """An element's name as bytes, None if no kit opens its form, and the text that shows it, with its source."""

    path: bytes | None
    shown: str

    @property
    def text(self) -> str | None:
        """The name as it is printed and accepted as input, without its source."""
        return None if self.path is None else written(self.path) or "."


def key_options(help_: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--key` and `--passphrase-file` to a command."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        option = click.option("--key", "kits", type=PATH, multiple=True, metavar="KIT.json", help=help_)
        return option(passphrase_option(function))

    return add


class Names:
    """The names of a ledger's elements for one run. Without kits, an element is shown by its id."""

    def __init__(self, ledger: Ledger, keys: Sequence[Key]) -> None:
        """Open names with these keys."""
        self._ledger = ledger
        self._labels: Labels = labels_of(ledger)
        self._namer: Namer | None = None
        self._unnamed = 0
        if keys:
            from kropot.restore.naming import Namer

            self._namer = Namer(keys)

    @classmethod
    def of_kits(cls, ledger: Ledger, kits: Sequence[Path], passphrase_files: Sequence[Path]) -> Names:
        """Read the kits. Raises: UsageError, WrongKeyError."""
        if not kits:
            return cls(ledger, ())
        from kropot.cli.copies import read_kits

        return cls(ledger, read_kits(kits, passphrase_files))

    @property
    def are_opened(self) -> bool:
        """Whether there are kits."""
        return self._namer is not None

    def json(self, name: Name) -> dict[str, str | None]:
        """Return the name as a field of a JSON object. Without kits, return no field."""
        return {} if self._namer is None else {"name": name.text}

    def of(self, key: StreamKey, element: Element | None) -> Name:
        """Return the name of an element."""
        source = short_name(self._labels, key.source)
        path = None
        if self._namer is not None and element is not None:
            path = self._namer.name(key, element)
            self._unnamed += path is None
        return Name(path, f"{source}:{one_line(key.id) if path is None else written(path) or '.'}")

    def of_event(self, event: Event) -> Name:
        """Return the name of the element that an event is about."""
        if event.key is None:
            return Name(None, "(erased)")
        return self.of(event.key, element_of(event))

    def sorted(self, items: Iterable[Item], place: Callable[[Item], tuple[StreamKey, Element | None]]) -> Iterator[Any]:
        """Yield (item, name): sorted by name if there are kits, with unnamed items last; else in the given order."""
        if self._namer is None:
            for item in items:
                yield item, self.of(*place(item))
            return
        from kropot.restore.spool import Spool

        with Spool[Any]() as spool:
            for item in items:
                name = self.of(*place(item))
                behind = b"\x01" + place(item)[0].stored if name.path is None else b"\x00" + name.path
                spool.add(behind, (item, name))
            yield from spool.in_order()

    def find(self, text: str, *, erased: Container[StreamKey] = (), is_whole: bool = False) -> StreamKey:
        """Return the only element with this name, or this id, or whose name ends with it, or whose id begins with it.

        This computes ids from the name as far as kits can, then tries the text as an id, or as the beginning of one if
        it has many hexadecimal digits. Else it opens all forms, also to find the end of a name unless it `is_whole`.

        Raises: UsageError if the text names no element, or several.
        """
        if self._namer is None:
            return find_element(self._ledger, text, erased=erased)
        computed = [
            key for key in self.readings(text) if key in erased or next(self._ledger.history(key), None) is not None
        ]
        if computed:
            return only_so_named(self._labels, text, computed)
        found = find_id(self._ledger, text, erased=erased)
        if found is None and is_like_an_id(text):
            found = find_beginning(self._ledger, text)
        found = found or self._read(text, is_whole=is_whole) or find_beginning(self._ledger, text)
        if found is None:
            raise none_found(text, "run `kropotcli ls --key KIT.json` to list all names")
        return found

    def readings(self, text: str) -> list[StreamKey]:
        """Return every element that `[SOURCE:]NAME` can mean, as far as kits can compute ids, even if it is missing."""
        return [] if self._namer is None else named_ids(self._labels, text, self._namer)

    def tell_unnamed(self) -> None:
        """Warn how many elements are shown by their ids, because no kit opened their forms."""
        tell_unnamed(self._unnamed)

    # --- helpers ---

    def _read(self, text: str, *, is_whole: bool) -> StreamKey | None:
        """Find an element by opening all forms. Raises: UsageError if several names are, or end with, this text."""
        namer = self._namer
        if namer is None or (is_whole and namer.knows_all_ids):
            return None
        entries = ((entry.key, entry.element) for entry in self._ledger.scan())
        names = ((key, None if element is None else namer.name(key, element)) for key, element in entries)
        return only_named(self._labels, text, names, is_whole=is_whole)


def tell_unnamed(count: int) -> None:
    """Warn that `count` elements are shown by their ids, because no kit opened their forms."""
    if count:
        elements = number(count, "element")
        warn(f"{elements} without a name: no given kit opens their forms, or the forms are not what was sealed")


def only_named(
    labels: Labels, text: str, names: Iterable[tuple[StreamKey, bytes | None]], *, is_whole: bool = False
) -> StreamKey | None:
    """Return the only element with the name `[SOURCE:]NAME` or, unless `is_whole`, the only one that ends with it.

    Raises: UsageError if there are several.
    """
    fitting = _fitting(_meanings(labels, text), names, is_whole=is_whole)
    found = nsmallest(MOST_LISTED + 1, fitting, key=lambda each: (*each[:2], each[2].stored))
    whole = [key for is_part, _, key in found if not is_part]
    if whole:
        return only_so_named(labels, text, whole)
    if len(found) > 1:
        shown = [f"{short_name(labels, key.source)}:{written(name)}" for _, name, key in found]
        raise UsageError(f"the name {text!r} is ambiguous, because several names end so: {listed(shown)}")
    return found[0][-1] if found else None


def only_so_named(labels: Labels, text: str, found: Sequence[StreamKey]) -> StreamKey:
    """Return the only element with this whole name. Raises: UsageError if there are several."""
    if len(found) == 1:
        return found[0]
    shown = listed([f"{short_name(labels, key.source)}:{one_line(key.id)}" for key in found])
    raise UsageError(f"the name {text!r} is ambiguous, because several elements have it: {shown}")


def _fitting(
    meant: list[tuple[list[bytes], bytes]], names: Iterable[tuple[StreamKey, bytes | None]], *, is_whole: bool
) -> Iterator[tuple[bool, bytes, StreamKey]]:
    """Yield (whether only the end fits, name, key) for each element whose name is, or ends with, a meant name."""
    for key, name in names:
        wanted = [] if name is None else [each for sources, each in meant if key.source in sources]
        if name is None or not wanted:
            continue
        if name in wanted:
            yield False, name, key
        elif not is_whole and any(_ends_so(name, each) for each in wanted):
            yield True, name, key


def _ends_so(name: bytes, text: bytes) -> bool:
    """Whether a path ends with this name, or with these last parts of a path."""
    part = text.removeprefix(b"./").strip(b"/")
    return bool(part) and (b"/" + name).endswith(b"/" + part)


def named_ids(labels: Labels, text: str, namer: Namer) -> list[StreamKey]:
    """Return every element that `[SOURCE:]NAME` can mean, as far as the kits can compute its id from the name."""
    ids = ((sources, each) for sources, name in _meanings(labels, text) for each in namer.ids(name.strip(b"/")))
    keys = (StreamKey(source=source, kind=FILE_KIND, id=each) for sources, each in ids for source in sources)
    return list(dict.fromkeys(keys))


def _meanings(labels: Labels, text: str) -> list[tuple[list[bytes], bytes]]:
    """Return the meanings of `[SOURCE:]NAME`, each as (sources, name). The name is taken as is, or without escapes."""
    found = []
    for sources, rest in split_source(labels, text):
        plain = b"" if rest == "." else rest.encode(errors="surrogateescape")
        found += [(sources, each) for each in dict.fromkeys((plain, as_written(rest) if plain else plain))]
    return found
