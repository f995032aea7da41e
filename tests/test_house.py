"""The house's rules that no linter knows: what the ledger may import, and what may stand in no file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"msgpack", "msgspec", "sqlalchemy"}
ALLOWED_HERE = {
    "ledger/note.py": {"cryptography"},
    "ledger/sql/migrations": {"alembic"},
    "ledger/sql/opening.py": {"alembic"},
}


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, the standard library left out."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names)


def tracked() -> list[Path]:
    """Return the files that belong to the project; outside a git checkout, everything but what tools leave."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        left = {".venv", ".git", "__pycache__", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
        paths = [path for path in ROOT.rglob("*") if not left & set(path.parts)]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "ledger").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_the_ledger_imports_nothing_beyond_its_few_libraries(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    here = {package for place, packages in ALLOWED_HERE.items() if name.startswith(place) for package in packages}
    assert imported(path) <= ALLOWED | here | {"ledger"}


def test_what_is_imported_is_named_and_what_is_built_on_is_bounded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    named = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower(): line.partition(";")[0] for line in lines}
    files = [path for package in ("kropot", "ledger") for path in (ROOT / package).rglob("*.py")]
    packages = {package for path in files for package in imported(path)} - {"kropot", "ledger"}
    distributions = packages_distributions()
    assert {distributions[package][0].lower() for package in packages} <= set(named)
    # uvicorn loads these by name.
    assert {"httptools", "uvloop"} <= set(named)
    # What subclasses their insides was tested with one minor version of uvicorn, and one major version of urllib3.
    minor = version("uvicorn").split(".")[:2]
    assert named["uvicorn"].endswith(f",<{minor[0]}.{int(minor[1]) + 1}")
    assert named["urllib3"].endswith(f",<{int(version('urllib3').split('.')[0]) + 1}")


def test_every_module_opens_by_saying_what_it_holds() -> None:
    for path in (p for p in tracked() if p.suffix == ".py"):
        tree = ast.parse(path.read_text())
        assert not tree.body or ast.get_docstring(tree), f"{path.relative_to(ROOT)} says nothing of itself"


def test_structlog_is_imported_late_and_set_up_before_its_first_line() -> None:
    """A module that imports it itself would make every command slower, or log before secrets are looked for."""
    importing = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "kropot").rglob("*.py") if "structlog" in imported(path)
    }
    assert importing == {"kropot/logs.py", "kropot/cli/output.py"}


def test_no_file_names_a_path_of_one_machine() -> None:
    pattern = re.compile(r"(?:^|[^A-Za-z0-9_.])/(?:work|root|home/[a-z]+)/")
    for path in tracked():
        text = path.read_bytes()
        if b"\0" in text or path == Path(__file__):
            continue
        for number, line in enumerate(text.decode(errors="replace").splitlines(), 1):
            assert not pattern.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_class_name_stands_twice() -> None:
    """A reader who meets a name must know which class is meant."""
    found: dict[str, list[str]] = {}
    for package in ("kropot", "ledger"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert len(found) > 100
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
