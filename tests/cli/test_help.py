"""The help, what people type who know other programs, the completion, the manual pages, and --quiet."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import click
import pytest

from kropot.cli.help_text import ALIASES, EXAMPLES, GROUPS
from kropot.cli.main import COMMANDS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli
    from tests.kropot.replay_cli import Run
    from tests.kropot.replay_world import World

pytest_plugins = ["tests.kropot.replay_cli"]


def every(
    command: click.Command, ctx: click.Context, path: str = ""
) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield path, command, ctx
    for name in command.list_commands(ctx) if isinstance(command, click.Group) else ():
        below = command.get_command(ctx, name)
        assert below is not None
        yield from every(below, click.Context(below, info_name=name, parent=ctx), f"{path} {name}".strip())


def test_every_command_is_in_one_group_and_has_one_example_that_can_be_typed() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    assert set(ALIASES.values()) <= COMMANDS.keys()
    assert ALIASES.keys().isdisjoint(COMMANDS)
    root = click.Context(cli, info_name="kropotcli", auto_envvar_prefix="KROPOT")
    found = {path: (command, ctx) for path, command, ctx in every(cli, root)}
    assert found.keys() == EXAMPLES.keys()
    for path, (command, ctx) in found.items():
        assert f"Example:\n  {EXAMPLES[path]}\n" in command.get_help(ctx)
        at: click.Command = cli
        words = shlex.split(EXAMPLES[path])[1:]
        parent = click.Context(cli, info_name="kropotcli", auto_envvar_prefix="KROPOT")
        while isinstance(at, click.Group):
            name, below, words = at.resolve_command(parent, words)
            assert below is not None
            at, parent = below, click.Context(below, info_name=name, parent=parent)
        at.make_context(str(at.name), words, parent=parent.parent)


def test_what_people_type_works(run_cli: RunCli) -> None:
    assert run_cli("-V").stdout == run_cli("--version").stdout
    assert run_cli("help").stdout == run_cli("--help").stdout
    assert run_cli("help", "kit", "check").stdout == run_cli("kit", "check", "--help").stdout
    assert "kropotcli verify" in run_cli("check", "--help").stdout
    assert run_cli("check").returncode == 10
    assert "Did you mean 'status'?" in run_cli("statsu").stderr
    wrong = run_cli("help", "statsu")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_is_installed_where_the_shell_looks(run_cli: RunCli, tmp_path: Path, shell: str) -> None:
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": "", "SHELL": f"/bin/{shell}"}
    printed = run_cli("completion", "print", shell)
    done = run_cli("completion", "install", env=home)
    assert done.returncode == 0, done.stderr
    path = tmp_path / done.stdout.strip().removeprefix(f"{tmp_path}/")
    assert path.read_text() == printed.stdout
    assert "kropotcli" in path.name
    assert run_cli("completion", "install", env=home).returncode == 0
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", path], check=False, capture_output=True).stderr == b""


ASKED = {
    # Each shell is asked what follows `kropotcli kit ch`, as the Tab key asks it.
    "bash": """source "$1"; COMP_WORDS=(kropotcli kit ch); COMP_CWORD=2
        complete=$(complete -p kropotcli | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        $complete kropotcli kit ch && printf '%s\\n' "${COMPREPLY[@]}" """,
    "fish": 'complete -C "kropotcli kit ch"',
    # zsh completes in its line editor alone, so it gets a terminal.
    "zsh": """zmodload zsh/zpty; zpty inner zsh -f -i
        zpty -w inner "PS1=; fpath=($1:h $fpath); autoload -U compinit; compinit -D -u; echo rea''dy"
        zpty -r -m inner answer '*ready*'
        zpty -w -n inner $'echo kropotcli; kropotcli kit ch\\t'
        zpty -r -m inner answer '*kropotcli kit check*' && print -r -- $answer; zpty -d inner""",
}


@pytest.mark.parametrize("shell", ASKED)
def test_the_shell_itself_completes_after_the_installation(
    run_cli: RunCli, kropotcli: Path, tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}
    installed = run_cli("completion", "install", shell, env=home).stdout.strip()
    line = [shell, "-c", ASKED[shell], *([] if shell == "fish" else ["-", installed])]
    done = subprocess.run(
        line,
        env=os.environ | home | {"PATH": f"{kropotcli.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "check" in done.stdout, done.stderr


def test_no_shell_is_one_sentence(run_cli: RunCli) -> None:
    done = run_cli("completion", "print", env={"SHELL": "/bin/dash"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "found", "not_found"),
    [
        ("kropotcli st", "status", "ls"),
        ("kropotcli kit ch", "check", "show"),
        ("kropotcli ls --fa", "--failing", "--state"),
    ],
)
def test_the_completion_knows_commands_and_options(run_cli: RunCli, words: str, found: str, not_found: str) -> None:
    env = {"_KROPOTCLI_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    lines = run_cli(env=env).stdout.split()
    assert any(line.endswith(found) for line in lines)
    assert not any(line.endswith(f",{not_found}") for line in lines)


def test_manual_pages_come_from_the_help(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("man", "--to", "pages")
    assert done.returncode == 0, done.stderr
    pages = {path.name: path.read_text() for path in (tmp_path / "pages").iterdir()}
    assert pages.keys() == {"kropotcli.1", *(f"kropotcli-{name}.1" for name in COMMANDS)}
    assert pages["kropotcli-ls.1"] == run_cli("man", "ls").stdout
    for name, text in pages.items():
        assert text.startswith('.TH "')
        assert "\\fB\\-h, \\-\\-help" not in text or name
    assert "KROPOTCLI KIT CHECK" in pages["kropotcli-kit.1"]
    assert "the key does not open the data" in pages["kropotcli.1"]
    assert run_cli("man", "nobody").returncode == 2
    if shutil.which("man"):
        read = subprocess.run(
            ["man", "--warnings", "-l", tmp_path / "pages/kropotcli-ls.1"], capture_output=True, check=False
        )
        assert read.stderr == b""


def test_quiet_work_says_nothing_until_there_is_trouble(world: World, run: Run, tmp_path: Path) -> None:
    source = world.source(None)
    key = world.put(source, "name", b"content")
    for args in (
        ("verify",),
        ("restore", "--to", str(tmp_path / "to")),
        ("replay", "--export", str(tmp_path / "export")),
        ("snapshot",),
        ("rebuild",),
        ("db", "init"),
    ):
        assert run(*args, "--quiet") == (0, "", ""), args
    assert "name" in run("ls", "--quiet").out
    copy = world.elements[key].copy
    assert copy is not None
    (stored,) = (each for each in (tmp_path / "storage").rglob("*") if each.name == copy.sha256.hex())
    stored.unlink()
    found = run("verify", "--quiet")
    assert found.code == 4
    assert "lost_object" in found.out
    assert "NOT SOUND" in found.out
    lost = run("restore", "--to", str(tmp_path / "again"), "--quiet")
    assert lost.code == 3
    assert "warning: name" in lost.err
