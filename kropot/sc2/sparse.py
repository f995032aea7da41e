"""Files with holes: where in the file each byte of a content belongs, for sealing and for restoring. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kropot.sc2.form import Form

    ReadAt = Callable[[int, int], bytes]


def data_ranges(form: Form) -> Iterator[tuple[int, int]]:
    """Yield each (start, length) in the file that the content holds, in order. The form MUST be complete (`merged`)."""
    at = 0
    for start, length in form.holes:
        if start > at:
            yield at, start - at
        at = start + length
    if form.size > at:
        yield at, form.size - at


def content_reader(form: Form, read_file: ReadAt, attributes: bytes = b"") -> ReadAt:
    """Return a function that reads the plain content as `Sealing.span` needs it, from any byte on.

    `form` is the complete form, and `attributes` is what `fitted` moved out of it. `read_file(offset, size)` reads the
    file. If it returns too few bytes, the function does too.
    """
    starts, offsets, at = list[int](), list[int](), len(attributes)
    for start, length in data_ranges(form):
        starts.append(at)
        offsets.append(start)
        at += length
    end = at

    def read_at(offset: int, size: int) -> bytes:
        taken = bytearray(attributes[offset : offset + size])
        number = max(0, bisect_right(starts, offset + len(taken)) - 1)
        while len(taken) < size and number < len(starts):
            stop = starts[number + 1] if number + 1 < len(starts) else end
            here = offset + len(taken)
            wanted = min(stop - here, size - len(taken))
            data = read_file(offsets[number] + here - starts[number], wanted)
            taken += data
            if len(data) < wanted:
                break
            number += 1
        return bytes(taken)

    return read_at


def placed(form: Form, chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the file, bytes) for the opened chunks of a complete form. Make the file `form.size` long first.

    The chunks are read to the end, so that any error they raise is raised here.
    """
    ranges = data_ranges(form)
    at = left = 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            while left == 0:
                at, left = next(ranges)
            piece = rest[:left]
            yield at, bytes(piece)
            at, left, rest = at + len(piece), left - len(piece), rest[len(piece) :]
