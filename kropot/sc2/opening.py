"""Open objects and list forms. Only authenticated data is returned, and never altered data. Pure."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from msgspec import Struct

from kropot.sc2.form import merged, parse_form, unpad_form
from kropot.sc2.layout import (
    CHUNK,
    HEADER_BYTES,
    LENGTH_BYTES,
    OVERHEAD,
    chunk_count,
    form_length,
    list_form_bytes,
    parse_header,
)
from kropot.sc2.refused import NoKeyError, Reason, RefusedError
from kropot.sc2.seal import CONTENT, FORM, LIST_FORM, Pieces, read_exactly
from kropot.secret import repr_without

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from kropot.sc2.form import Form
    from kropot.sc2.layout import ObjectHeader
    from kropot.sc2.vault import ObjectKeys, Vault


class OpenedObject(Struct, frozen=True, kw_only=True):
    """An object whose header and form are proved. `chunks` yields its content, once.

    `form` is complete: it includes any attributes that came before the content.
    """

    header: ObjectHeader
    form: Form
    chunks: Iterator[bytes]
    """The file's bytes without its holes, in pieces. Raises RefusedError if the object is not as it was sealed."""

    __repr__ = repr_without("chunks")


class OpenedForm(Struct, frozen=True, kw_only=True):
    """A proved form of a list or an object: which version of which element it describes, and what it says."""

    header: ObjectHeader
    form: Form


class ListedElement(Struct, frozen=True, kw_only=True):
    """A proved form of a list, and what is needed to open the object that it was listed with."""

    header: ObjectHeader
    form: Form
    head: bytes
    encoded: bytes
    pieces: Pieces

    __repr__ = repr_without("head", "encoded", "pieces")


def open_object(source: BinaryIO, vaults: Mapping[bytes, Vault]) -> OpenedObject:
    """Return an object's header and form, and an iterator over its content, in constant memory.

    `vaults` maps ids to the available vaults (`keyring`). Read the chunks to the end: only then is it certain that
    nothing was cut off. A caller that expects a certain source, element or version MUST compare it with the header's,
    because any object from the same vault opens.

    Raises:
        RefusedError: the object is not what its owner sealed.
        NoKeyError: the vaults do not hold the key.
    """
    header, form, pieces = _head(source, vaults)
    chunks = _content(source, pieces, plain=form.plain_length, padded=form.padded_length)
    if form.attributes:
        blob, chunks = _split(chunks, form.attributes)
        form = merged(form, blob)
    return OpenedObject(header=header, form=form, chunks=chunks)


def open_head(source: BinaryIO, vaults: Mapping[bytes, Vault]) -> OpenedForm:
    """Return an object's header and form without reading its content.

    The form does not include attributes that come before the content. Raises: as `open_object`.
    """
    header, form, _ = _head(source, vaults)
    return OpenedForm(header=header, form=form)


def open_list_form(text: str, vaults: Mapping[bytes, Vault]) -> OpenedForm:
    """Return what `seal_list_form` sealed. Raises: as `open_object`."""
    listed = open_listed(text, vaults)
    return OpenedForm(header=listed.header, form=listed.form)


def open_listed(text: str, vaults: Mapping[bytes, Vault]) -> ListedElement:
    """Return the same, and what opens the object without deriving its keys again. Raises: as `open_object`."""
    data = list_form_bytes(text)
    header = parse_header(data)
    vault = _vault(header, vaults)
    keys = vault.keys_of(header)
    pieces = Pieces(keys)
    encoded = _unsealed(pieces, LIST_FORM, data[HEADER_BYTES:])
    form = _proved(vault, keys, parse_form(encoded))
    return ListedElement(header=header, form=form, head=keys.head, encoded=encoded, pieces=pieces)


def open_whole(data: bytes, listed: ListedElement) -> tuple[Form, bytes] | None:
    """Return the form and the file's bytes of an object that is wholly in memory, as `open_object` would return them.

    Returns None if the object is not exactly the one that `listed` describes, or has holes or attributes before its
    content: then `open_object` must open it. Raises: RefusedError, as `open_object` and its chunks do.
    """
    if not data.startswith(listed.head):
        return None
    begin = HEADER_BYTES + LENGTH_BYTES
    length = form_length(data[HEADER_BYTES:begin])
    encoded = _unsealed(listed.pieces, FORM, data[begin : begin + length])
    form = listed.form if encoded == listed.encoded else parse_form(encoded)
    if form.path != listed.form.path or form.attributes or form.holes:
        return None
    rest = BytesIO(data)
    rest.seek(begin + length)
    return form, b"".join(_content(rest, listed.pieces, plain=form.plain_length, padded=form.padded_length))


def _head(source: BinaryIO, vaults: Mapping[bytes, Vault]) -> tuple[ObjectHeader, Form, Pieces]:
    header = parse_header(read_exactly(source, HEADER_BYTES))
    vault = _vault(header, vaults)
    keys = vault.keys_of(header)
    length = form_length(read_exactly(source, LENGTH_BYTES))
    sealed = read_exactly(source, length)
    if len(sealed) < length:
        raise RefusedError(Reason.CUT, "the object ends within its form")
    pieces = Pieces(keys)
    return header, _form(vault, keys, pieces, FORM, sealed), pieces


def _vault(header: ObjectHeader, vaults: Mapping[bytes, Vault]) -> Vault:
    if header.vault not in vaults:
        raise NoKeyError(
            Reason.VAULT, f"it belongs to the vault {header.vault.hex()}: give the kit of that vault with --key"
        )
    return vaults[header.vault]


def _form(vault: Vault, keys: ObjectKeys, pieces: Pieces, label: bytes, sealed: bytes) -> Form:
    return _proved(vault, keys, parse_form(_unsealed(pieces, label, sealed)))


def _unsealed(pieces: Pieces, label: bytes, sealed: bytes) -> bytes:
    try:
        return unpad_form(pieces.open(label, 0, sealed, last=True))
    except InvalidTag:
        raise RefusedError(Reason.FORM, "its form was altered, or belongs to something else") from None


def _proved(vault: Vault, keys: ObjectKeys, form: Form) -> Form:
    if vault.element(form.path) != keys.header.element:
        raise RefusedError(Reason.NAME, "the id in its header does not belong to the path in its form")
    return form


def _content(source: BinaryIO, pieces: Pieces, *, plain: int, padded: int) -> Iterator[bytes]:
    """Yield the plain content. The last chunk is yielded only if nothing follows it."""
    count = chunk_count(padded)
    for index in range(count):
        start = index * CHUNK
        size = min(CHUNK, padded - start)
        sealed = read_exactly(source, size + OVERHEAD)
        if len(sealed) < size + OVERHEAD:
            raise RefusedError(Reason.CUT, f"the object ends within its content, at byte {start + len(sealed)} of it")
        last = index + 1 == count
        try:
            data = pieces.open(CONTENT, index, memoryview(sealed), last=last)
        except InvalidTag:
            raise RefusedError(
                Reason.CONTENT, f"its content was altered after byte {start}, or belongs to something else"
            ) from None
        if last and source.read(1):
            raise RefusedError(Reason.EXCESS, "something follows the end of the object")
        real = min(max(plain - start, 0), size)
        if data.count(0, real) != size - real:
            raise RefusedError(Reason.CONTENT, "the padding of its content is not all zeros")
        if real:
            yield data[:real]


def _split(chunks: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """Return the first `size` bytes, and an iterator over the rest."""
    taken, rest = bytearray(), b""
    while len(taken) < size:
        taken += next(chunks)
    taken, rest = taken[:size], bytes(taken[size:])

    def others() -> Iterator[bytes]:
        if rest:
            yield rest
        yield from chunks

    return bytes(taken), others()
