"""What a client accepts, according to its headers. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_REFUSED = re.compile(r"q\s*=\s*0(?:\.0*)?")


def names_media_type(headers: Iterable[tuple[bytes, bytes]], wanted: str) -> bool:
    """Whether the header Accept names exactly this media type. `*/*` does not name it, and `q=0` refuses it."""
    for name, value in headers:
        if name != b"accept":
            continue
        for one in value.decode("latin-1").split(","):
            media, *parameters = (part.strip().lower() for part in one.split(";"))
            if media == wanted and not any(_REFUSED.fullmatch(each) for each in parameters):
                return True
    return False
