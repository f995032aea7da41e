"""The units of contrib/, adapted to one machine: where the program is, who runs it, and what it may write.

A user's units lack everything that only the system's manager may set, e.g. another user and most of the sandbox.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Manager = Literal["system", "user"]

SERVICES: Final = ("collect", "gateway", "keeper", "verify", "prune", "check")
"""The services that have units. Timers run the last three."""

MARK: Final = "# Installed by `kropotcli service install`."
"""The beginning of each unit. A file that begins differently is not ours and is not replaced."""

_PROGRAM: Final = "/usr/bin/kropotcli"
_ONLY_ONE: Final = " --token-file %d/token"
_ONE_TOKEN: Final[Mapping[str, Path]] = MappingProxyType({})
_FOR_USERS: Final = frozenset(
    {
        *("Type", "NotifyAccess", "LoadCredential", "ExecStart", "ExecReload", "Restart", "RestartSec"),
        *("RestartPreventExitStatus", "TimeoutStartSec", "TimeoutStopSec", "WatchdogSec", "LimitNOFILE"),
        *("StateDirectory", "StateDirectoryMode", "WorkingDirectory", "Nice", "IOSchedulingClass"),
        *("IOSchedulingPriority", "CPUSchedulingPolicy", "CPUWeight", "IOWeight", "UMask", "NoNewPrivileges"),
        *("LockPersonality", "RestrictRealtime", "RestrictSUIDSGID", "RestrictAddressFamilies"),
        *("SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber"),
    }
)
"""The lines of [Service] that a user's unit keeps. The rest needs the right to change users, mounts or capabilities."""


def units(
    services: Sequence[str],
    manager: Manager,
    *,
    program: str = _PROGRAM,
    writable: Sequence[Path] = (),
    tokens: Mapping[str, Path] = _ONE_TOKEN,
) -> dict[str, str]:
    """Return the texts of the units by their file names.

    The words of `program` are separated by NUL. `writable` lists the folders of the replica outside the services' own
    folders; the gateway does not get them. `tokens` maps the names of credentials to the token files of the
    configuration's sources; without any, the collector has the one token of its unit.

    Raises: KropotError if the units were not installed with the program.
    """
    found: dict[str, str] = {}
    for service in services:
        for ending in ("service", "timer"):
            path = contrib() / "systemd" / f"kropot-{service}.{ending}"
            if path.is_file():
                more = () if service == "gateway" else writable
                lines = [*_lines(path.read_text().splitlines(), manager, program, more)]
                found[path.name] = "\n".join(_with_tokens(lines, tokens) if tokens else lines) + "\n"
    return found


def sysusers() -> str:
    """Return the sysusers.d file that makes the user of the system's services."""
    return (contrib() / "sysusers.d" / "kropot.conf").read_text()


def contrib() -> Path:
    """Return the folder of the units: inside the package in a wheel, next to it in a clone. Raises: KropotError."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "contrib", package.parent / "contrib"):
        if (folder / "systemd").is_dir():
            return folder
    raise KropotError("the units were not installed with this program: take them from contrib/ of its source")


def _lines(lines: Sequence[str], manager: Manager, program: str, writable: Sequence[Path]) -> Iterator[str]:
    section = ""
    for line in lines:
        if line.startswith("["):
            section = line
        name = line.partition("=")[0]
        if manager == "user":
            if section == "[Service]" and line and line[0].isupper() and name not in _FOR_USERS:
                continue
            if "network-online.target" in line or line.startswith("#ReadWritePaths"):
                continue
        match name:
            case "ExecStart":
                # A command expands variables, even in quotes.
                words = [_quoted(word).replace("$", "$$") for word in program.split("\0")]
                yield line.replace(_PROGRAM, " ".join(words), 1)
            case "WantedBy" if manager == "user":
                yield line.replace("multi-user.target", "default.target")
            case "ProtectSystem" if writable:
                yield line
                yield from (f"ReadWritePaths={_quoted(str(folder))}" for folder in writable)
            case _:
                yield line


def _with_tokens(lines: Sequence[str], tokens: Mapping[str, Path]) -> Iterator[str]:
    """Replace the collector's one credential with one for each source, which it finds by the source's name."""
    for line in lines:
        if line.startswith("LoadCredential=token:"):
            yield from (f"LoadCredential={name}:{_quoted(str(file))}" for name, file in tokens.items())
        elif line.startswith("# The token: a file that"):
            yield "# The tokens: files that only root can read. Only this service sees the copies in %d."
        else:
            yield line.replace(_ONLY_ONE, "") if line.startswith("ExecStart=") else line


def _quoted(word: str) -> str:
    """Return a word quoted for systemd."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}"' if any(not char.isalnum() and char not in "/._-+%" for char in word) else escaped
