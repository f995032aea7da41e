"""The mode of a run of `kropotcli restore`, and the check that its options fit together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from kropot.cli.output import is_terminal
from kropot.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.cli.settings import Settings

Mode = Literal["restore", "look", "verify", "print"]
"""What a run does: write files, only list them, check copies and compare a folder, or write one file to stdout."""


def mode_of(*, list_names: bool, dry_run: bool, verify_only: bool, printed: str | None) -> Mode:
    """Return the mode of this run. Raises: UsageError if the options ask for two modes at once."""
    asked: dict[str, tuple[bool, Mode]] = {
        "--list-names": (list_names, "look"),
        "--dry-run": (dry_run, "look"),
        "--verify-only": (verify_only, "verify"),
        "--stdout": (printed is not None, "print"),
    }
    chosen = [(option, mode) for option, (is_chosen, mode) in asked.items() if is_chosen]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(option for option, _ in chosen)} cannot be combined: give only one of them")
    return chosen[0][1] if chosen else "restore"


def check_options(settings: Settings, mode: Mode, target: Path | None, patterns: tuple[str, ...]) -> None:
    """Raise UsageError if the options do not fit together."""
    if mode == "print":
        if target is not None or patterns:
            raise UsageError("--stdout already names the file: leave out --to and all patterns")
        if settings.json:
            raise UsageError("--json and the file cannot both go to stdout: leave out --json")
        if is_terminal(sys.stdout):
            raise UsageError("the file would be written to the terminal: redirect stdout, or add `| less`")
    elif mode == "restore" and target is None:
        raise UsageError("no target folder was given: name it with --to DIR, or list the files with --list-names")
    elif mode == "verify" and target is not None and not target.is_dir():
        raise UsageError(f"there is no folder {target} to compare with: name the right one with --to")
