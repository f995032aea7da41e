"""What an export carries so that it can be checked elsewhere: the events of its copies, and the headers of all events.

docs/format.md, "Exports", defines the bytes.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any, cast

import msgpack
from msgspec import Struct
from msgspec.structs import replace

from kropot.restore.history import AlteredError, header_of
from ledger.codec import SOURCE_BYTES, decode_header, decode_payload, leaf_hash
from ledger.errors import LedgerError
from ledger.events import Element
from ledger.rows import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kropot.replay.copies import HeldCopy

HISTORY = b"history.bin"
_MAGIC = b"kropot-history-1\n"
_SALT_BYTES = 32
_LONGEST = 64 << 20
_MOST_EVENTS = 2


class Origin(Struct, frozen=True, kw_only=True):
    """Where an export comes from: the ledger's first event, the exported state's position, and the sources' salts."""

    first: StoredEvent
    position: int
    salts: Mapping[bytes, bytes]


def history_parts(origin: Origin, headers: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts of the file that carries the headers of all events."""
    packer = msgpack.Packer(use_bin_type=True)
    yield _MAGIC
    first = [origin.first.header, origin.first.nonce, origin.first.payload]
    yield cast("bytes", packer.pack([first, origin.position, sorted(origin.salts.items())]))
    for header in headers:
        yield cast("bytes", packer.pack(header))


def read_history(fd: int) -> tuple[Origin, Iterator[bytes]]:
    """Return where an export comes from, and the headers of all events. This takes over the descriptor.

    Raises: ValueError if it is not such a file. The headers end where the file is damaged.
    """
    file = os.fdopen(fd, "rb")
    if file.read(len(_MAGIC)) != _MAGIC:
        file.close()
        raise ValueError("not the history of an export")
    unpacker = msgpack.Unpacker(file, raw=False, use_list=False, max_buffer_size=_LONGEST)
    try:
        (header, nonce, payload), position, salts = unpacker.unpack()
        if type(position) is not int or not all(type(each) is bytes for each in (header, nonce, payload)):
            raise ValueError("the beginning is damaged")  # noqa: TRY301 -- one way for all of them
        found = {source: salt for source, salt in salts if (len(source), len(salt)) == (SOURCE_BYTES, _SALT_BYTES)}
        origin = Origin(first=_event(header, nonce, payload), position=position, salts=found)
    except (ValueError, TypeError, msgpack.UnpackException, LedgerError):
        file.close()
        raise ValueError("the beginning is damaged") from None

    def headers() -> Iterator[bytes]:
        with file:
            try:
                for each in unpacker:
                    if type(each) is not bytes:
                        return
                    yield each
            except (ValueError, msgpack.UnpackException):
                return

    return origin, headers()


def event_json(event: StoredEvent) -> dict[str, Any]:
    """Return an event as JSON fields of a manifest's line."""
    return {
        "header": base64.b64encode(event.header).decode(),
        "nonce": None if event.nonce is None else base64.b64encode(event.nonce).decode(),
        "payload": None if event.payload is None else base64.b64encode(event.payload).decode(),
    }


def with_events(held: HeldCopy, shown: object, *, stored: bool = True) -> HeldCopy:
    """Return a copy as its events describe it, in place of what its line says.

    Only the export's own file, and whether the source was past, are taken from the line. If the events cannot be read,
    or do not belong together, `refused` says so. With `stored`, so it does if there is no copy.
    """
    try:
        return _told(held, _events(shown), stored=stored)
    except (ValueError, TypeError, KeyError, LedgerError):
        return replace(held, refused="the events in its line of the manifest cannot be read")
    except AlteredError as error:
        return replace(held, refused=str(error))


def _events(shown: object) -> tuple[StoredEvent, ...]:
    if not isinstance(shown, list) or not 1 <= len(shown) <= _MOST_EVENTS:
        raise ValueError(shown)
    return tuple(map(read_event, shown))


def read_event(shown: dict[str, Any]) -> StoredEvent:
    """Return an event that `event_json` wrote. Raises: ValueError, TypeError, KeyError, LedgerError."""
    return _event(*(base64.b64decode(shown[name], validate=True) for name in ("header", "nonce", "payload")))


def _event(header: bytes, nonce: bytes, payload: bytes) -> StoredEvent:
    """Return an event from its proof. Its columns come from its header. Raises: LedgerError."""
    read = decode_header(header)
    return StoredEvent(
        seq=read.seq,
        stream=0,
        stream_version=read.stream_version,
        type=read.type,
        schema_version=read.schema_version,
        flags=read.flags,
        recorded_us=read.recorded_us,
        observed_us=read.observed_us,
        writer=read.writer,
        header=header,
        nonce=nonce,
        payload=payload,
        leaf=leaf_hash(header),
    )


def _told(held: HeldCopy, events: tuple[StoredEvent, ...], *, stored: bool) -> HeldCopy:
    elements = [_element(event) for event in events]
    state, listed = elements[0], elements[-1]
    copy = state.copy
    if copy is None and not stored and len(elements) == 1:
        return replace(
            held,
            form=state.form,
            date=state.date,
            tz=state.tz,
            state=state.state,
            position=events[0].seq,
            events=events,
        )
    if copy is None or copy.revision not in {state.revision, listed.revision}:
        raise AlteredError("its events say nothing about a copy")
    return replace(
        held,
        form=listed.form,
        date=listed.date,
        tz=listed.tz,
        state=state.state,
        sha256=copy.sha256,
        size=copy.size,
        iv=copy.iv,
        is_older=copy.revision != state.revision,
        position=events[0].seq,
        events=events,
    )


def _element(event: StoredEvent) -> Element:
    header_of(event)
    if event.payload is None:
        raise AlteredError(f"event {event.seq} has no payload")
    element = getattr(decode_payload(event.type, event.schema_version, event.flags, event.payload), "element", None)
    if not isinstance(element, Element):
        raise AlteredError(f"event {event.seq} says nothing about an element")
    return element
