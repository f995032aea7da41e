"""The program's log. structlog takes a tenth of a second to import, so that happens with the first line, not before."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_waiting: Final[list[Callable[[], None]]] = []
"""How to set up the log, until something needs it. At most one."""


class Log:
    """Logs an event with its fields, as structlog's loggers do: `log.info("copy_stored", size=3)`."""

    def __getattr__(self, level: str) -> Any:
        """Return structlog's method of this name, once the log is set up."""
        structlog = _structlog()
        set_up_now()
        return getattr(structlog.get_logger(), level)


def _structlog() -> Any:
    """Import structlog without rich: it would only draw tracebacks with it, and rich takes as long again to import."""
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
    """Have the log set up before its first line. `how` replaces what was said before."""
    _waiting[:] = [how]
    if "structlog" in sys.modules:
        set_up_now()


def set_up_now() -> None:
    """Set the log up, unless that is done."""
    while _waiting:
        _waiting.pop()()
