"""The README's five minutes, typed as they stand there, and every command that a document tells to type."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Final

import click
import pytest

from kropot.cli.main import cli

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def typed(text: str) -> list[str]:
    """Return the lines of the indented blocks of a text, as a reader would type them."""
    return [line[4:] for line in text.splitlines() if line.startswith("    ")]


def five_minutes() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return typed(text.partition("## Five minutes")[2].partition("\n## ")[0])


def script(lines: list[str], tmp_path: Path, port: int) -> str:
    """Return the lines as one script; what a person does by hand is done by it: pasting, and a second terminal."""
    own = {
        "/srv/files": str(tmp_path / "files"),
        "/backup/storage": str(tmp_path / "storage"),
        "/mnt/stick": str(tmp_path / "stick"),
        "https://files.example.org": f"http://127.0.0.1:{port}",
    }
    # A stick that is plugged in.
    (tmp_path / "stick").mkdir()
    out = ["set -euo pipefail"]
    for given in lines:
        line = given
        for theirs, ours in own.items():
            line = line.replace(theirs, ours)
        if line.startswith(("python3 -m venv", "export PATH=")):
            continue  # the program that the tests run is installed already
        if line.startswith("kropotcli gateway token create"):
            line = line.partition("#")[0] + " > printed"
        elif line.startswith("kropotcli gateway serve"):
            line = f"{line.partition('#')[0]} --port {port} & trap 'kill $!' EXIT\n"
            line += f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done; sleep 3"
        elif line.startswith("cat > token "):
            line = "cat printed > token"
        out.append(line)
    return "\n".join(out)


def test_the_five_minutes_work_as_they_are_typed(kropotcli: Path, tmp_path: Path, free_port: int) -> None:
    lines = five_minutes()
    assert lines[0].startswith("python3 -m venv")
    assert lines[1].startswith("export PATH=~/kropotcli/bin:")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "letter.txt").write_text("Dear reader,\n")
    work = tmp_path / "work"
    work.mkdir()
    path = f"export PATH={shlex.quote(str(kropotcli.parent))}:$PATH"
    with subprocess.Popen(
        ["bash", "-c", f"{path}\n{script(lines, tmp_path, free_port)}"],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its gateway
            raise
    assert process.returncode == 0, out + err
    assert "healthy" in out
    assert "everything is sound" in out
    assert (work / "restored" / "letter.txt").read_text() == "Dear reader,\n"
    assert list((tmp_path / "stick").iterdir())


WORDS = r"(kropotcli (?:[^`\n#|&;<>]|<[^`\n]*?>)*)"
TYPED = re.compile(rf"(?:^\s*|\$ ){WORDS}", re.MULTILINE)
"""A command in a block of code: at the start of a line, or after a prompt."""
SAID = re.compile(rf"(?:^ {{4}}|`|\$ ){WORDS}", re.MULTILINE)
"""A command in text: between backquotes, or indented. A sentence may begin a line with the program's name."""
FENCED = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def told(page: Path) -> list[str]:
    """Return the commands that a page tells to type, in blocks and in the middle of a sentence."""
    text = page.read_text().replace("\\\n", " ")
    blocks = [block.group() for block in FENCED.finditer(text)]
    found = [line for block in blocks for line in TYPED.findall(block)] + SAID.findall(FENCED.sub("", text))
    return [line.strip() for line in found if not line.startswith("kropotcli [")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_in_a_document_exists_with_its_options(page: Path) -> None:
    for line in told(page):
        command, words = cli, line.split()[1:]
        known = {flag for param in cli.params for flag in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
        skip = False
        for word in words:
            if skip:
                skip = False
            elif word.startswith("-"):
                flag = word.partition("=")[0].rstrip(".,)")
                every = [*cli.params, *command.params]
                assert flag in known | {each for param in every for each in (*param.opts, *param.secondary_opts)}, line
                skip = (
                    any(flag in param.opts and isinstance(param, click.Option) and not param.is_flag for param in every)
                    and "=" not in word
                )
            elif isinstance(command, click.Group):
                with click.Context(command, info_name=command.name) as ctx:
                    below = command.get_command(ctx, word)
                assert below is not None or word in {"...", "COMMAND", "[OPTIONS]"}, f"{line!r}: there is no {word!r}"
                if below is None:
                    break
                command = below
