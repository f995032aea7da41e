"""Packs values as msgpack, with one packer for the whole process, because making a packer costs more than packing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgpack

if TYPE_CHECKING:
    from collections.abc import Callable

pack: Final[Callable[[object], bytes]] = msgpack.Packer(use_bin_type=True).pack
"""Returns the msgpack bytes of a value."""
