"""Chooses the engine that moves contents: libcurl, or the slower fallback if libcurl is missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.collect.transfer.engine import EngineMaker


class EngineChoice(Struct, frozen=True, kw_only=True):
    """The chosen kind of engine; `warning` is a sentence for the user if it is the slower one, else None."""

    name: str
    make: EngineMaker
    warning: str | None


def choose_engine(load: Callable[[str], object] = importlib.import_module) -> EngineChoice:
    """Choose the fastest engine that can be loaded; `load` imports a module by name."""
    from kropot.collect.transfer.plain import PlainEngine

    try:
        load("pycurl")
    except ImportError as error:
        warning = f"fetching with the slower engine, because pycurl cannot be loaded ({error}): install pycurl"
        return EngineChoice(name="http.client", make=PlainEngine, warning=warning)
    from kropot.collect.transfer.curl import CurlEngine

    return EngineChoice(name="libcurl", make=CurlEngine, warning=None)
