"""`kropotcli completion`: prints and installs completion scripts for bash, zsh and fish."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from kropot.cli.base import Settings, emit, emit_json, group, say
from kropot.errors import UsageError

PROGRAM: Final = "kropotcli"
SHELLS: Final = ("bash", "zsh", "fish")
_SHELL = click.argument("shell", metavar="[bash|zsh|fish]", type=click.Choice(SHELLS), required=False)


@group("completion")
def command() -> None:
    """Complete commands, options and their values with the Tab key, in bash, zsh and fish."""


@command.command("print")
@_SHELL
def print_(settings: Settings, *, shell: str | None) -> None:
    """Print the script that completes command lines in this shell. Default: the shell that $SHELL names."""
    chosen = _chosen(shell)
    script = script_for(chosen)
    if settings.json:
        emit_json("completion", {"shell": chosen, "script": script, "file": None})
    else:
        emit(script)


@command.command("install")
@_SHELL
def install(settings: Settings, *, shell: str | None) -> None:
    """Install the completion for this user. Default: for the shell that $SHELL names.

    The file goes where the shell finds it by itself. Running this again replaces it. Start a new shell to use it.
    """
    chosen = _chosen(shell)
    path, more = _place(chosen)
    script = script_for(chosen)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{script}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {path} ({error.strerror}): write the output of `kropotcli completion print {chosen}` to a "
            "file that your shell reads"
        ) from None
    if settings.json:
        emit_json("completion", {"shell": chosen, "script": script, "file": str(path)})
    else:
        emit(str(path))
    say(f"start a new {chosen}, and then the Tab key completes commands{more}")


def script_for(shell: str) -> str:
    """Return the script for a shell. It asks this program for completions, so updates do not change it."""
    from click.shell_completion import get_completion_class

    from kropot.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"this program cannot complete for {shell}: choose one of {', '.join(SHELLS)}")
    completion = found(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE")
    return (completion.source_template % completion.source_vars()).strip()


def _chosen(shell: str | None) -> str:
    """Return the shell, or the one that the environment names. Raises: UsageError."""
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(f"the shell {name or '(none)'} is not known here: name one of {', '.join(SHELLS)}")
    return name


def _place(shell: str) -> tuple[Path, str]:
    """Return the file that the shell looks for, and what else is needed. Raises: UsageError if the user has no home."""
    try:
        home = Path.home()
    except RuntimeError:
        raise UsageError("this user has no home: use `kropotcli completion print`") from None
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    match shell:
        case "bash":
            return data / "bash-completion/completions" / PROGRAM, " (bash needs the package bash-completion)"
        case "fish":
            return config / f"fish/completions/{PROGRAM}.fish", ""
        case _:
            folder = data / "zsh/site-functions"
            return folder / f"_{PROGRAM}", f" (in .zshrc, before compinit: fpath+=({folder}))"
