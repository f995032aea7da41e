"""`kropotcli demo`: the whole round on one machine, and everything needed to go on by hand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from kropot import demo
from kropot.cli.base import Exit, Settings, emit_json, say
from kropot.cli.base import command as define
from kropot.cli.output import configure_logging
from kropot.errors import KropotError, UsageError

_NAMED: Final = 3

_SECOND: Final = 1.1
"""The protocol's dates are full seconds: a file that changes again within one would not be seen as changed."""


@define("demo")
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Back up this folder instead of a sample; nothing in it is changed.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("kropot-demo"),
    show_default=True,
    metavar="DIR",
    help="New folder for everything that the demonstration makes; a number is added if it exists.",
)
def command(settings: Settings, *, source: Path | None, folder: Path) -> Exit:
    """Show the whole round on one machine: serve, collect, change, collect again, check.

    A gateway is started on this machine alone; an encrypted token is made; everything is collected; some files are
    changed and deleted; what changed is collected; status and a short check are shown. The folder stays, with the
    commands to go on by hand.
    """
    from kropot.durable.newfile import write_new

    began = time.monotonic()
    if settings.origins.get("log_level") == "default":
        # What the gateway in this process logs would only part the commands from their results.
        configure_logging("warning", settings.log_format)
    home = demo.make_folder(folder.absolute())
    places, may_change = _prepare(home, None if source is None else source.resolve(), quiet=settings.json)
    show = _Show(places, quiet=settings.json)
    port = _round(places, show, may_change=may_change)
    lines = _notes(places, port)
    write_new(places.notes, ("\n".join(lines) + "\n").encode())
    took = time.monotonic() - began
    if settings.json:
        emit_json({"folder": str(home), "commands": str(places.notes), "seconds": round(took, 1)})
        return Exit.DONE
    show.title("To go on by hand")
    for line in lines:
        say(line)
    say(f"\nAll of this took {took:.0f} s. It stays in {home}, these commands in {places.notes.name}.")
    return Exit.DONE


class _Show:
    """Shows what is done while it is done; commands run as a user would run them, in processes of their own."""

    def __init__(self, places: demo.Places, *, quiet: bool) -> None:
        self._places = places
        self._quiet = quiet
        # A user's own settings must not turn the demonstration upon his own ledger.
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("KROPOT_")}

    def title(self, text: str) -> None:
        """Begin a part."""
        self.line(f"\n== {text}")

    def line(self, text: str) -> None:
        """Say something, unless results are wanted as JSON alone."""
        if not self._quiet:
            say(text)

    def run(self, *args: str, partly: bool = False) -> None:
        """Run a command in the demonstration's folder; with `partly`, it may leave out some of what it is about.

        Raises: KropotError if it fails.
        """
        shared = ("--config", self._places.config.name)
        self.line(f"$ {shlex.join(('kropotcli', *shared, *args))}")
        done = subprocess.run(  # noqa: S603 - this very program
            (sys.executable, "-m", "kropot", *shared, *args),
            cwd=self._places.folder,
            env=self._environment,
            stdout=subprocess.DEVNULL if self._quiet else sys.stderr,
            check=False,
        )
        if partly and done.returncode == Exit.PARTIAL:
            self.line("Not all of it could be collected; that is what exit code 3 says, and the rest goes on.")
        elif done.returncode != 0:
            raise KropotError(
                f"`kropotcli {args[0]}` ended with exit code {done.returncode}; what was made so far is in "
                f"{self._places.folder}"
            )


def _prepare(home: Path, source: Path | None, *, quiet: bool) -> tuple[demo.Places, bool]:
    """Return the places, with a folder to serve, and whether files in it may be changed.

    Raises: UsageError if the folder to serve would hold the demonstration's own secrets.
    """
    served = home / "source"
    if source is None:
        served.mkdir()
        demo.write_sample(served)
        return demo.Places(folder=home, source=served), True
    if home.is_relative_to(source):
        home.rmdir()
        raise UsageError(f"{home} would lie in the folder to back up: name another place with --folder")
    if demo.is_small(source):
        unreadable = demo.copy_folder(source, served)
        if unreadable and not quiet:
            names = ", ".join(map(repr, unreadable[:_NAMED])) + (", ..." if len(unreadable) > _NAMED else "")
            say(f"left out, since it cannot be read: {names} ({len(unreadable)} in all)")
        return demo.Places(folder=home, source=served), True
    return demo.Places(folder=home, source=source), False


def _round(places: demo.Places, show: _Show, *, may_change: bool) -> int:
    """Go through the whole round; return the gateway's port."""
    from kropot.durable.newfile import write_new
    from kropot.gateway.keys import write_new_key
    from kropot.gateway.server import GatewayServer

    places.state.parent.mkdir(mode=0o700)
    show.title("A gateway serves a folder, sealing every file for the token that asks")
    with GatewayServer(places.source, f"sqlite:///{places.state}", write_new_key(places.master_key)) as gateway:
        token, kit = gateway.create_token(demo.token_spec())
        if kit is None:
            raise KropotError("the gateway made no key for the demonstration's token")
        write_new(places.token, f"{token}\n".encode())
        write_new(places.kit, demo.kit_text(kit).encode())
        write_new(places.config, demo.config_text(gateway.url).encode())
        show.line(f"{places.source} is served at {gateway.url}.")
        show.line(
            f"The token is in {places.token.name}; the key, which the collector never sees, in {places.kit.name}."
        )

        show.title("Collect everything: only ciphertext comes, and names are hashes")
        show.run("collect", "--once", partly=not may_change)

        if may_change:
            show.title("Some files change, some are deleted")
            time.sleep(_SECOND)
            for line in demo.change(places.source):
                show.line(line)
            gateway.rescan()
        else:
            show.title("This folder is too large to be copied, and is yours: nothing in it is changed")

        show.title("Collect again: only what is new; what is gone keeps its copies (--full finds that it is gone)")
        show.run("collect", "--once", "--full", partly=not may_change)

    show.title("How is the replica?")
    show.run("status")
    show.title("Is everything what it was?")
    show.run("verify")
    return urlsplit(gateway.url).port or 0


def _notes(places: demo.Places, port: int) -> list[str]:
    """Return the lines that tell how to go on."""
    program = Path(sys.executable).parent
    lines = [f"cd {shlex.quote(str(places.folder))}", f"export PATH={shlex.quote(str(program))}:$PATH"]
    for purpose, args in demo.commands(places, port):
        lines += ["", f"# {purpose}:", shlex.join(args)]
    return lines
