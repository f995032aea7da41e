"""Kits on paper: lines that a person can type again, each with a checksum, and a QR code. Pure."""

from __future__ import annotations

import binascii
import hashlib
import io
import re
from base64 import b32decode, b32encode
from typing import Final

from kropot.errors import UsageError
from kropot.sc2.kit import MAX_KIT

_LINE_BYTES: Final = 25
_GROUP: Final = 5
_CHECK: Final = 4
_LONGEST: Final = 4 * MAX_KIT
_LINE: Final = re.compile(r"[ \t]*([0-9]{1,5})[ \t]+([A-Za-z0-9 \t]+?)[ \t]*")
_LOOK_ALIKE: Final = str.maketrans("018", "OIB")
_END: Final = re.compile(r"[ \t]*end[ \t]+([A-Za-z0-9 \t]+?)[ \t]*", re.IGNORECASE)


def to_paper(kit: bytes) -> str:
    """Return a kit as lines to print: number, groups of five letters, checksum of four. The last line is `end`."""
    lines = []
    for number, at in enumerate(range(0, len(kit), _LINE_BYTES), 1):
        data = kit[at : at + _LINE_BYTES]
        text = b32encode(data).decode().rstrip("=")
        groups = [text[start : start + _GROUP] for start in range(0, len(text), _GROUP)]
        lines.append(f"{number:>3}  {' '.join(groups)}  {_check(number, data)}\n")
    return "".join(lines) + f"end  {_check(0, kit)}\n"


def from_paper(text: str) -> bytes:
    """Return the kit that `to_paper` printed. Other lines, spaces and the case of letters do not matter.

    Raises:
        UsageError: a line is missing or mistyped; the message names it.
    """
    if len(text) > _LONGEST:
        raise UsageError("this text is too long to be a kit")
    kit = bytearray()
    number = 0
    for line in text.splitlines():
        if (found := _END.fullmatch(line)) is not None:
            if _letters(found[1]) != _check(0, bytes(kit)):
                raise UsageError(f"lines are missing: {number} were read, which is not the whole kit")
            return bytes(kit)
        if (found := _LINE.fullmatch(line)) is None:
            continue
        if int(found[1]) != number + 1:
            raise UsageError(f"line {number + 1} of the kit is missing: line {int(found[1])} follows line {number}")
        number += 1
        kit += _read_line(number, _letters(found[2]))
    raise UsageError(f"the text has no line that begins with `end` ({number} lines were read): type the whole kit")


def to_qr(kit: bytes, *, svg: bool = False) -> str:
    """Return a QR code that holds the kit's text, for a terminal or as SVG.

    Raises:
        UsageError: the package segno is missing, or the kit is too long for one code.
    """
    try:
        import segno
    except ImportError:
        raise UsageError(
            "a QR code needs the package segno: pip install 'kropotcli[paper]', or print the kit as text"
        ) from None
    try:
        code = segno.make_qr(kit.rstrip(b"\n").decode(), error="m", boost_error=False)
    except segno.DataOverflowError:
        raise UsageError(f"the kit has {len(kit)} bytes, too many for a QR code: print it as text") from None
    if svg:
        drawn = io.BytesIO()
        code.save(drawn, kind="svg", scale=4, xmldecl=False)
        return drawn.getvalue().decode()
    shown = io.StringIO()
    code.terminal(shown, compact=True)
    return shown.getvalue()


def _letters(typed: str) -> str:
    """Return the typed text in capitals, without spaces. 0, 1 and 8 are never printed, so they become O, I and B."""
    return "".join(typed.split()).upper().translate(_LOOK_ALIKE)


def _read_line(number: int, text: str) -> bytes:
    letters, check = text[:-_CHECK], text[-_CHECK:]
    try:
        data = b32decode(letters + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError):
        data = b""
    if not 0 < len(data) <= _LINE_BYTES or _check(number, data) != check:
        raise UsageError(f"line {number} of the kit has a typing error: compare it with the paper")
    return data


def _check(number: int, data: bytes) -> str:
    digest = hashlib.sha256(number.to_bytes(4, "big") + data).digest()
    return b32encode(digest[:_GROUP]).decode()[:_CHECK]
