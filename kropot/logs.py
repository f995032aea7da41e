"""The program's log. structlog takes a tenth of a second to import, so it is imported only for the first line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_waiting: Final[list[Callable[[], None]]] = []
"""The function that sets up the log, until something needs the log. At most one."""


class Log:
    """Logs an event with its fields, as structlog's loggers do: `log.info("copy_stored", size=3)`."""

    def __getattr__(self, level: str) -> Any:
        """Set up the log if necessary, and return structlog's method of this name."""
        structlog = _structlog()
        set_up_now()
        return getattr(structlog.get_logger(), level)


def _structlog() -> Any:
    """Import structlog without rich, which only draws its tracebacks and takes just as long to import."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        absent: Any = None
        sys.modules["rich"] = absent
        try:
            import structlog
        finally:
            del sys.modules["rich"]
    import structlog

    return structlog


log: Final = Log()


def set_up(how: Callable[[], None]) -> None:
    """Have `how` set up the log before its first line. It replaces an earlier `how`."""
    _waiting[:] = [how]
    if "structlog" in sys.modules:
        set_up_now()


def set_up_now() -> None:
    """Set up the log, unless that was done already."""
    while _waiting:
        _waiting.pop()()
