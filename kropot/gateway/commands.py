"""Runs the owner's commands before and after each scan, for dumps of databases and snapshots of file systems.

A command is split into words as a shell does, but runs without a shell. Nothing in it is expanded, so a name with a
space or a dollar sign cannot become something else. If you need a pipe, name a shell: `sh -c "... | ..."`.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import KropotError, UsageError
from kropot.logs import log
from kropot.secret import hide_credentials
from kropot.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


LIMIT_S: Final = 3600.0
"""How long a command may run, in seconds."""

ENV_PREFIX: Final = "KROPOT"
"""Commands do not get environment variables with this prefix: they can hold a token, a passphrase or the master key."""

_EXPANDING: Final = frozenset("$`")
_OPERATORS: Final = frozenset("|&;<>()\n")
_LINES: Final = 100
_LINE_BYTES: Final = 1000
_POLL_S: Final = 0.1
_ENDING_S: Final = 5.0
_CLEANING_S: Final = 60.0
_SHOWN: Final = 200


class CommandFailedError(KropotError):
    """A command before or after a scan failed, so the scan does not count."""


class CommandStoppedError(KropotError):
    """The gateway is stopping, so a command was ended."""


class ScanCommands(Struct, frozen=True, kw_only=True):
    """The commands before and after each scan, as words, and how long each may take, in seconds."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    limit_s: float = LIMIT_S

    @contextmanager
    def around(self, stop: threading.Event) -> Iterator[None]:
        """Run the first command, then the block, then the second command, even if the block fails.

        Raises:
            CommandFailedError: a command fails or takes too long. If it is the first one, the block does not run.
            CommandStoppedError: `stop` was set meanwhile.
        """
        if self.before:
            _run("--before-scan", self.before, self.limit_s, stop)
        try:
            yield
        finally:
            if self.after:
                # It might have to remove a snapshot, so a gateway that is stopping waits up to a minute for it.
                limit_s = min(self.limit_s, _CLEANING_S) if stop.is_set() else self.limit_s
                _run("--after-scan", self.after, limit_s, threading.Event())


def command_from(text: str, option: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words of a command.

    Raises:
        UsageError: it is empty, has an open quote, needs a shell, or names no program.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        raise UsageError(f"{option} has a quote that is not closed, or ends with a backslash: correct it") from None
    if "\0" in text:
        raise UsageError(f"{option} has a NUL character: remove it")
    if not words or not words[0]:
        raise UsageError(f"{option} is empty: give a program and its arguments")
    if (char := _for_shell(text)) is not None:
        raise UsageError(
            f"{option} has a {char} that only a shell understands, and the command runs without one: quote it, put the "
            f"command into a script, or write sh -c '...'"
        )
    if shutil.which(words[0], path=environ.get("PATH")) is None:
        raise UsageError(
            f"{option} names the program {quoted(words[0][:_SHOWN])}, which cannot be run: give its full path"
        )
    return words


def _for_shell(text: str) -> str | None:
    """Return the first character that a shell would interpret because no quote protects it, or None."""
    quote, chars = "", iter(text)
    for char in chars:
        if char == "\\" and quote != "'":
            next(chars, None)
        elif char in _EXPANDING and quote != "'":
            return char
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char in _OPERATORS:
            return char
    return None


def _run(option: str, words: tuple[str, ...], limit_s: float, stop: threading.Event) -> None:
    """Run a command to its end, and log what it prints. Raises: CommandFailedError, CommandStoppedError."""
    began = time.monotonic()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - the owner of the gateway gives this command
            words,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            start_new_session=True,
        )
        os.close(theirs)
        theirs = -1
        code = _follow(process, ours, option, began + limit_s, stop)
    except OSError as error:
        raise CommandFailedError(f"{option} cannot be run ({error.strerror}): check the program") from None
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
    if code == 0:
        log.info("scan_command_done", option=option, seconds=round(time.monotonic() - began, 1))
    elif stop.is_set():
        raise CommandStoppedError(f"{option} was ended because the gateway is stopping")
    elif code is None:
        raise CommandFailedError(
            f"{option} took longer than {limit_s:g} s and was ended: find out why, or raise --scan-command-limit"
        )
    else:
        raise CommandFailedError(f"{option} failed with exit code {code}: its output is in the log lines before this")


def _follow(
    process: subprocess.Popen[bytes], output: int, option: str, until: float, stop: threading.Event
) -> int | None:
    """Log what a command prints until it ends. Return its exit code, or None if it had to be ended."""
    printed = _Output(option)
    os.set_blocking(output, False)
    try:
        # Not select(), which takes no descriptor above 1023. With many connections, a gateway has such descriptors.
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while (code := process.poll()) is None and time.monotonic() < until and not stop.is_set():
                selector.select(_POLL_S)
                printed.take(output)
        # Read only what is already there, because a child that was left behind can keep the pipe open.
        printed.take(output)
    finally:
        # If the command still runs, end it and the processes that it started.
        is_over = process.poll() is not None
        if not is_over:
            _end(process)
        printed.end()
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and everything it started: first by request, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)
            return


class _Output:
    """Logs a command's output: at most 100 lines of up to 1,000 bytes."""

    def __init__(self, option: str) -> None:
        """Log lines of the command that `option` gives."""
        self._option = option
        self._rest = b""
        self._lines = 0

    def take(self, output: int) -> None:
        """Read the available output, and log its complete lines."""
        with suppress(BlockingIOError):
            while data := os.read(output, 1 << 16):
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._rest = self._rest[:_LINE_BYTES]
                for line in lines:
                    self._log(line)

    def end(self) -> None:
        """Log the last line, and how many were left out."""
        if self._rest:
            self._log(self._rest)
        if self._lines > _LINES:
            log.warning("scan_command_output_cut", option=self._option, left_out=self._lines - _LINES)

    def _log(self, line: bytes) -> None:
        self._lines += 1
        if self._lines <= _LINES:
            # The log hides the secrets that this program knows, but a command can print other passwords.
            text = hide_credentials(line[:_LINE_BYTES].decode("utf-8", "replace").rstrip())
            log.info("scan_command_output", option=self._option, line=text)
