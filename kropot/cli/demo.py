"""`kropotcli demo`: shows a whole backup on one machine, and leaves the commands to continue by hand."""

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
from kropot.wording import number

_NAMES_SHOWN: Final = 3

_SECOND: Final = 1.1
"""The protocol's dates are whole seconds. Another change within the same second would go unnoticed."""


@define("demo")
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Back up this folder, not a sample. Nothing in it is changed.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("kropot-demo"),
    show_default=True,
    metavar="DIR",
    help="Put everything that the demo makes into this new folder. If it exists, a number is added to the name.",
)
def command(settings: Settings, *, source: Path | None, folder: Path) -> Exit:
    """Run a complete backup on one machine: serve, collect, change, collect again, check.

    The demo starts a gateway that only this machine can reach, and makes an encrypted token. It collects everything,
    changes and deletes some files, and collects the changes. Then it shows the status and verifies the replica. The
    folder is kept. A file in it lists the commands to continue by hand.
    """
    from kropot.durable.newfile import write_new

    began = time.monotonic()
    if settings.origins.get("log_level") == "default":
        # The log lines of the gateway in this process would appear between the commands and their results.
        configure_logging("warning", settings.log_format)
    home = demo.make_folder(folder.absolute())
    places, may_change = _prepare(home, None if source is None else source.resolve(), quiet=settings.json)
    show = _Presenter(places, quiet=settings.json)
    port = _run_demo(places, show, may_change=may_change)
    lines = _next_commands(places, port)
    write_new(places.notes, ("\n".join(lines) + "\n").encode())
    took = time.monotonic() - began
    if settings.json:
        emit_json("demo", {"folder": str(home), "commands": str(places.notes), "seconds": round(took, 1)})
        return Exit.DONE
    show.title("Continue by hand")
    for line in lines:
        say(line)
    say(f"\nThe demo took {took:.0f} s. Everything is in {home}; {places.notes.name} there lists these commands.")
    program, *rest = demo.browse_command(places)
    command = shlex.join((str(Path(sys.executable).parent / program), *rest))
    say(f"Look at it in your browser:\n  (cd {shlex.quote(str(home))} && {command})")
    return Exit.DONE


class _Presenter:
    """Shows each step while it runs. Commands run in their own processes, as a user would run them."""

    def __init__(self, places: demo.Places, *, quiet: bool) -> None:
        self._places = places
        self._quiet = quiet
        # The user's own settings must not make the demo work on the user's own ledger.
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("KROPOT_")}

    def title(self, text: str) -> None:
        """Show the title of the next step."""
        self.line(f"\n== {text}")

    def line(self, text: str) -> None:
        """Show a line, unless the user wants JSON only."""
        if not self._quiet:
            say(text)

    def run(self, *args: str, partly: bool = False) -> None:
        """Run a command in the demo's folder. With `partly`, exit code 3 is accepted.

        Raises: KropotError if the command fails.
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
            self.line("Some files could not be collected (exit code 3). The demo continues.")
        elif done.returncode != 0:
            raise KropotError(
                f"the demo stopped because `kropotcli {args[0]}` ended with exit code {done.returncode}: read its "
                f"messages above; everything made so far is in {self._places.folder}"
            )


def _prepare(home: Path, source: Path | None, *, quiet: bool) -> tuple[demo.Places, bool]:
    """Return the places, with a folder to serve, and whether the demo may change files in it.

    Raises: UsageError if the folder to serve would hold the demo's own secrets.
    """
    served = home / "source"
    if source is None:
        served.mkdir()
        demo.write_sample(served)
        return demo.Places(folder=home, source=served), True
    if home.is_relative_to(source):
        home.rmdir()
        raise UsageError(
            f"the demo's folder {home} would be inside the folder to back up: name another one with --folder"
        )
    if demo.is_small(source):
        unreadable = demo.copy_folder(source, served)
        if unreadable and not quiet:
            names = ", ".join(map(repr, unreadable[:_NAMES_SHOWN]))
            more = ", ..." if len(unreadable) > _NAMES_SHOWN else ""
            say(f"left out {number(len(unreadable), 'file')} that cannot be read: {names}{more}")
        return demo.Places(folder=home, source=served), True
    return demo.Places(folder=home, source=source), False


def _run_demo(places: demo.Places, show: _Presenter, *, may_change: bool) -> int:
    """Run all steps of the demo, and return the gateway's port."""
    from kropot.durable.newfile import write_new
    from kropot.gateway.server import GatewayServer
    from kropot.serving.keyfile import write_new_key

    places.state.parent.mkdir(mode=0o700)
    show.title("A gateway serves a folder. It seals every file for the token that asks")
    with GatewayServer(places.source, f"sqlite:///{places.state}", write_new_key(places.master_key)) as gateway:
        token, kit = gateway.create_vault_token(demo.vault_spec())
        write_new(places.token, f"{token}\n".encode())
        write_new(places.kit, kit.encode())
        write_new(places.config, demo.config_text(gateway.url).encode())
        show.line(f"The gateway serves {places.source} at {gateway.url}.")
        show.line(f"The token is in {places.token.name}. The key is in {places.kit.name}; the collector never sees it.")

        show.title("Collect everything. The collector gets only ciphertext, and ids instead of names")
        show.run("collect", "--once", partly=not may_change)

        if may_change:
            show.title("Change some files and delete some")
            time.sleep(_SECOND)
            for line in demo.change(places.source):
                show.line(line)
            gateway.rescan()
        else:
            show.title("This folder is too large to copy, so the demo changes nothing in it")

        show.title("Collect the changes. --full finds vanished elements; their copies stay")
        show.run("collect", "--once", "--full", partly=not may_change)

    show.title("Show the status of the replica")
    show.run("status")
    show.title("Verify the ledger and the copies")
    show.run("verify")
    return urlsplit(gateway.url).port or 0


def _next_commands(places: demo.Places, port: int) -> list[str]:
    """Return the commands to continue by hand, as lines of a shell script."""
    program = Path(sys.executable).parent
    lines = [f"cd {shlex.quote(str(places.folder))}", f"export PATH={shlex.quote(str(program))}:$PATH"]
    for purpose, args in demo.commands(places, port):
        lines += ["", f"# {purpose}:", shlex.join(args)]
    return lines
