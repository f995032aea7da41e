"""Makes the calls: a ping over HTTP, Apprise, and a command. Each raises CallFailedError, which names no address."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from kropot.errors import KropotError

if TYPE_CHECKING:
    from kropot.notify.message import Message

_ENDINGS: Final = {"start": "/start", "success": "", "fail": "/fail"}
_HIDDEN_ENV: Final = "KROPOT"
"""Environment variables with this prefix are hidden from commands, because they can hold a token or a password."""


class CallFailedError(KropotError):
    """A call did not get through. The work itself is not affected."""


def ping(url: str, message: Message, timeout_s: float) -> None:
    """Call a ping address in the manner of healthchecks.io: append `/start`, nothing or `/fail`, and send a body.

    Raises: CallFailedError.
    """
    import requests

    from kropot.securecopy.authorities import authorities

    head, mark, query = url.partition("?")
    try:
        with requests.Session() as session:
            # As everywhere in this program, no proxy is used unless the user asks for it.
            session.trust_env = False
            answer = session.post(
                head + _ENDINGS[message.state] + mark + query,
                data=f"{message.body}\n".encode(),
                headers={"Content-Type": "text/plain; charset=utf-8", "User-Agent": "kropotcli"},
                timeout=timeout_s,
                verify=authorities(None),
                allow_redirects=False,
                stream=True,
            )
            answer.close()
    except (requests.RequestException, OSError, ValueError) as error:
        raise CallFailedError(f"the ping-url does not answer ({type(error).__name__})") from None
    if not 200 <= answer.status_code < 300:  # noqa: PLR2004 - HTTP's codes of success
        raise CallFailedError(f"the ping-url answers {answer.status_code}")


def load_apprise() -> None:
    """Import Apprise if it is installed. If not, `tell_apprise` says so."""
    with suppress(Exception):
        import apprise  # noqa: F401


def tell_apprise(urls: tuple[str, ...], message: Message) -> None:
    """Send a message through Apprise. Raises: CallFailedError."""
    try:
        import apprise
    except ImportError:
        raise CallFailedError("Apprise is not installed: pip install 'kropotcli[notify]'") from None
    import logging

    # Apprise logs addresses, which are secrets.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    sender = apprise.Apprise()
    kind: Any = {
        "success": apprise.NotifyType.SUCCESS,
        "alarm_ended": apprise.NotifyType.SUCCESS,
        "start": apprise.NotifyType.INFO,
    }.get(message.state, apprise.NotifyType.FAILURE)
    known = [sender.add(url) for url in urls]
    if not all(known):
        raise CallFailedError(f"Apprise does not understand address {known.index(False) + 1} of [notify] apprise")
    if not sender.notify(title=message.title, body=message.body, notify_type=kind):
        raise CallFailedError("Apprise could not send the message")


def run_command(words: tuple[str, ...], message: Message, timeout_s: float) -> None:
    """Run a command with the message as JSON on its stdin. After the time-out, it and its children are killed.

    Raises: CallFailedError.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN_ENV)}
    # The service manager must not take it for a part of the service.
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"):
        environ.pop(name, None)
    try:
        process = subprocess.Popen(  # noqa: S603 - the keeper of the replica gives this command
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,
        )
    except OSError as error:
        raise CallFailedError(f"the command of [notify] cannot be run ({error.strerror})") from None
    try:
        process.communicate(json.dumps(message.json()).encode() + b"\n", timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise CallFailedError(f"the command of [notify] took longer than {timeout_s:g} s and was ended") from None
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
    if process.returncode:
        raise CallFailedError(f"the command of [notify] failed with exit code {process.returncode}")
