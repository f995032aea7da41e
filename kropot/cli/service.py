"""`kropotcli service`: installs the units that let a service manager run this program."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kropot.cli.base import Settings, config_file_of, emit, emit_json, group, say, warn
from kropot.cli.paths import PATH
from kropot.cli.source_tables import credential_of, source_tables
from kropot.durable.newfile import write_new
from kropot.errors import KropotError, UsageError
from kropot.service.units import MARK, SERVICES, sysusers, units
from kropot.user_folders import config_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.objects.stores.address import StorageAddress
    from kropot.service.units import Manager

_OWN = Path("/var/lib/kropot")
_MODE = 0o644


@group("service")
def command() -> None:
    """Install systemd units that run this program."""


@command.command("install")
@click.argument("services", nargs=-1, type=click.Choice(SERVICES), metavar="[SERVICE]...")
@click.option("--system", "manager", flag_value="system", help="For the whole machine, as user kropot. Needs root.")
@click.option("--user", "manager", flag_value="user", help="For this user, with a weaker sandbox.")
@click.option("--dry-run", is_flag=True, help="Print the files, and write nothing.")
@click.option("--root", type=PATH, metavar="DIR", help="Write below this folder instead of /, e.g. to build a package.")
def install(
    settings: Settings, *, services: tuple[str, ...], manager: Manager | None, dry_run: bool, root: Path | None
) -> None:
    """Install units for systemd: collect, gateway, keeper, and verify, prune and check with timers.

    SERVICE names one of them; without it, all are installed. Nothing is started: the last lines say how to do that. If
    a configuration is given with --config, the services may write to the storage and the ledger that it names.
    """
    if manager is None:
        raise UsageError("choose who runs the services: give --system or --user")
    wanted = services or SERVICES
    texts = units(wanted, manager, program=_program(), writable=_writable(settings, manager), tokens=_tokens())
    folder = _folder(manager, root)
    files = {folder / name: text for name, text in texts.items()}
    if manager == "system":
        files[(root or Path("/")) / "etc/sysusers.d/kropot.conf"] = sysusers()
    if dry_run:
        _print(settings, files)
        return
    for path, text in files.items():
        _write(path, text)
    if settings.json:
        emit_json("service_installed", {"files": [str(path) for path in files]})
    else:
        for path in files:
            emit(str(path))
    for line in _next_steps(manager, wanted):
        say(line)


def _print(settings: Settings, files: dict[Path, str]) -> None:
    for path, text in files.items():
        if settings.json:
            emit_json("service_unit", {"path": str(path), "text": text})
            continue
        emit(f"# --- {path}\n{text}")


def _write(path: Path, text: str) -> None:
    """Write a unit, and replace an older one. Raises: UsageError if the file is not ours; KropotError; OSError."""
    try:
        before = path.read_text()
    except FileNotFoundError:
        before = None
    if before == text:
        return
    if before is not None and MARK not in before and before != sysusers():
        raise UsageError(f"{path} was not made by this command, so it was not changed: move it away first")
    try:
        if before is not None:
            path.unlink()
        write_new(path, text.encode(), mode=_MODE)
    except PermissionError as error:
        raise KropotError(f"cannot write {path} ({error.strerror}): run this as root, or give --user") from error


def _folder(manager: Manager, root: Path | None) -> Path:
    if manager == "system":
        return (root or Path("/")) / "etc/systemd/system"
    own = config_folder()
    if own is None:
        raise UsageError("this user has no home for units: give --system")
    folder = own.parent / "systemd/user"
    return folder if root is None else root / folder.relative_to("/")


def _program() -> str:
    """Return the command line that starts this program. NUL separates its words."""
    found = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "kropotcli" else None
    program = f"{sys.executable}\0-m\0kropot" if found is None else str(Path(found).absolute())
    if Path(program.split("\0")[0]).is_relative_to(Path.home()) and Path.home() != Path("/"):
        warn(f"the program is in your home ({program.split(chr(0))[0]}): other users may not be able to run it")
    return program


def _writable(settings: Settings, manager: Manager) -> list[Path]:
    """Return the folders that the configuration names outside the service's own folder."""
    if manager == "user":
        return []
    places = [place for place in (settings.storage_path, *_further()) if isinstance(place, Path)]
    prefix, mark, file = settings.db_string.partition("sqlite:////")
    if mark and not prefix:
        places.append((Path("/") / file.partition("?")[0]).parent)
    return sorted({place for place in places if place.is_absolute() and not place.is_relative_to(_OWN)})


def _further() -> list[StorageAddress]:
    """Return the further storages that the configuration names for `collect`."""
    from kropot.objects.stores.address import parse_storage

    file = config_file_of(click.get_current_context())
    named = () if file is None else file.tables.get("collect", {}).get("also_store", ())
    return [parse_storage(each) for each in named if isinstance(each, str)]


def _tokens() -> dict[str, Path]:
    """Return the token files of the configured sources, by the names of their credentials; empty without sources."""
    tables = source_tables(config_file_of(click.get_current_context())).values()
    files = {table.name: table.values["token_file"] for table in tables if "token_file" in table.values}
    return {credential_of(name): expanded(Path(str(file))).absolute() for name, file in files.items()}


def _next_steps(manager: Manager, services: Sequence[str]) -> Iterator[str]:
    flag = " --user" if manager == "user" else ""
    if manager == "system":
        yield "next: systemd-sysusers"
        yield "then: put config.toml (owner kropot, mode 0600) and token (owner root, mode 0600) into /etc/kropotcli"
        yield "(if the file has sources, the unit names their token files: install it again when you add one)"
    else:
        yield "next: put config.toml and token (mode 0600) into ~/.config/kropotcli, and `loginctl enable-linger`"
    started = [f"kropot-{name}.{'timer' if name in {'verify', 'prune', 'check'} else 'service'}" for name in services]
    yield f"then: systemctl{flag} daemon-reload && systemctl{flag} enable --now {' '.join(started)}"
