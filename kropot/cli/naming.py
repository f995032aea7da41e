"""The option `--key` of the commands that list: it opens names, finds elements by them, and sorts by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from kropot.cli.base import warn
from kropot.cli.passphrases import passphrase_option
from kropot.cli.paths import PATH
from kropot.errors import UsageError
from kropot.query.names import find_element, none_found, short_name, split_source
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
_MOST_SHOWN: Final = 10


class Name(NamedTuple):
    """An element's name as bytes, None if no kit opens its form; and how it is shown, with its source."""

    path: bytes | None
    shown: str

    @property
    def text(self) -> str | None:
        """The name as it is printed and taken back, without its source."""
        return None if self.path is None else written(self.path) or "."


def key_options(help_: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--key` and `--passphrase-file` to a command."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        option = click.option("--key", "kits", type=PATH, multiple=True, metavar="KIT.json", help=help_)
        return option(passphrase_option(function))

    return add


class Names:
    """The names of a ledger's elements for one run. Without kits, an element is called by its id."""

    def __init__(self, ledger: Ledger, keys: Sequence[Key]) -> None:
        """Open names with these keys."""
        self._ledger = ledger
        self._labels: Labels = labels_of(ledger)
        self._namer: Namer | None = None
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
        """Return the field of a JSON answer that holds the name; none if there are no kits."""
        return {} if self._namer is None else {"name": name.text}

    def of(self, key: StreamKey, element: Element | None) -> Name:
        """Return the name of an element."""
        source = short_name(self._labels, key.source)
        path = None if self._namer is None or element is None else self._namer.name(key, element)
        return Name(path, f"{source}:{one_line(key.id) if path is None else written(path) or '.'}")

    def of_event(self, event: Event) -> Name:
        """Return the name of the element that an event is about."""
        if event.key is None:
            return Name(None, "(erased)")
        return self.of(event.key, element_of(event))

    def sorted(self, items: Iterable[Item], place: Callable[[Item], tuple[StreamKey, Element | None]]) -> Iterator[Any]:
        """Yield (item, name): by name if there are kits, those without a name last; else as they come."""
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

    def find(self, text: str, *, erased: Container[StreamKey] = ()) -> StreamKey:
        """Return the only element with this name, or that `find_element` finds.

        The id of a name is computed where the kits allow it. Otherwise this opens the forms of all elements.

        Raises: UsageError if the text names no element, or several.
        """
        if self._namer is None:
            return find_element(self._ledger, text, erased=erased)
        found = list(self._computed(text))
        if not found:
            key = find_element(self._ledger, text, erased=erased, is_demanded=False)
            found = list(self._read(text)) if key is None else [key]
        if len(found) == 1:
            return found[0]
        if not found:
            raise none_found(text, "run `kropotcli ls --key KIT.json` to list all names")
        shown = ", ".join(f"{short_name(self._labels, key.source)}:{one_line(key.id)}" for key in found[:_MOST_SHOWN])
        raise UsageError(f"the name {text!r} is ambiguous, because {number(len(found), 'element')} have it: {shown}")

    def tell_unnamed(self) -> None:
        """Say how many elements are shown by their ids, because no kit opened their forms."""
        if self._namer is not None and self._namer.unnamed:
            count = number(self._namer.unnamed, "element")
            warn(f"{count} without a name: no given kit opens their forms, or the forms were altered")

    # --- helpers ---

    def _computed(self, text: str) -> Iterator[StreamKey]:
        if self._namer is None:
            return
        keys = dict.fromkeys(
            StreamKey(source=source, kind="file", id=each)
            for sources, name in _meanings(self._labels, text)
            for each in self._namer.ids(name)
            for source in sources
        )
        yield from (key for key in keys if next(self._ledger.history(key), None) is not None)

    def _read(self, text: str) -> Iterator[StreamKey]:
        """Open the form of every element. An element of `sc2` would have been found by its id."""
        if self._namer is None or self._namer.knows_all_ids:
            return
        meanings = _meanings(self._labels, text)
        for entry in self._ledger.scan():
            name = None if entry.element is None else self._namer.name(entry.key, entry.element)
            if any(name == meant and entry.key.source in sources for sources, meant in meanings):
                yield entry.key


def _meanings(labels: Labels, text: str) -> list[tuple[list[bytes], bytes]]:
    """Return what `[SOURCE:]NAME` can mean, each as the sources and the name: as it stands, or without its escapes."""
    found = []
    for sources, rest in split_source(labels, text):
        plain = b"" if rest == "." else rest.encode(errors="surrogateescape")
        found += [(sources, each) for each in dict.fromkeys((plain, as_written(rest) if plain else plain))]
    return found
