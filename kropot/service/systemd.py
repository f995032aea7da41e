"""The small protocol of sd_notify(3): says that the service is ready, what it does, and that it is alive."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kropot.secret import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATUS_EVERY_S: Final = 1.0
_LONGEST_STATUS: Final = 200
_PATIENCE_S: Final = 0.2


class ServiceManager:
    """Reports to a service manager, if there is one. No method raises, because a backup must not end here."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read where the manager listens, and how often it wants a sign of life."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        is_for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        self.beat_every_s = int(usec) / 2e6 if is_for_us and usec.isdigit() else None
        self._beat_at = self._status_at = 0.0
        self._status = ""

    @property
    def is_there(self) -> bool:
        """Whether a service manager started this process and listens."""
        return self._address.startswith(("/", "@"))

    def ready(self) -> None:
        """Say that the service is ready."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends this."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the service is stopping."""
        self._send("STOPPING=1")

    def beat(self) -> None:
        """Say that the service is alive. Call it often; it sends only as often as the watchdog needs."""
        now = time.monotonic()
        if self.beat_every_s is not None and now - self._beat_at >= self.beat_every_s:
            self._beat_at = now
            self._send("WATCHDOG=1")

    def status(self, text: str, *, at_once: bool = False) -> None:
        """Say in one line what the service does. The same text is not sent twice, nor one that follows too soon."""
        now = time.monotonic()
        if text != self._status and (at_once or now - self._status_at >= _STATUS_EVERY_S):
            self._status, self._status_at = text, now
            self._send(f"STATUS={redact(text)[:_LONGEST_STATUS]}")

    def _send(self, message: str) -> None:
        if not self.is_there:
            return
        # An address that begins with @ is in the abstract namespace, whose names begin with NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            link.settimeout(_PATIENCE_S)
            link.sendto(message.replace("\0", "").encode(), address)
