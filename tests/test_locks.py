"""The lock files are what pyproject.toml asks for, whole and hashed; the audit says what it could not look up."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED: dict[str, list[str]] = {
    "run": [
        *PROJECT["project"]["dependencies"],
        *(line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra),
    ],
    "dev": [
        *(line for line in PROJECT["dependency-groups"]["dev"] if isinstance(line, str)),
        *PROJECT["dependency-groups"]["docs"],
    ],
    "build": [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["build"]],
    "tools": PROJECT["dependency-groups"]["lock"],
}


def locked(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Return each release that a lock file names, with its hashes, by the name of its package."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    text = re.sub(r"\\\n *", "", (ROOT / "locks" / f"{name}.txt").read_text())
    for line in (line for line in text.splitlines() if not line.startswith("#")):
        requirement, *hashes = line.split("--hash=")
        release = Requirement(requirement)
        hashes = [each.strip() for each in hashes]
        assert hashes, f"{release} has no hash"
        # A later Python may get another release: the one for this Python counts.
        if (
            release.marker is not None
            and "python_full_version" in str(release.marker)
            and not release.marker.evaluate()
        ):
            continue
        assert canonicalize_name(release.name) not in found
        found[canonicalize_name(release.name)] = release, hashes
    return found


def pinned(release: Requirement) -> str:
    """Return the one version of a release."""
    (only,) = release.specifier
    assert only.operator == "=="
    return only.version


def needed(requirement: Requirement, version: str) -> list[Requirement]:
    """Return what a requirement asks for here, as its installed distribution says; nothing without this version."""
    try:
        installed = distribution(requirement.name)
    except PackageNotFoundError:
        return []
    if installed.version != version:  # `make lowest` installs others than the lock files name
        return []
    found = [Requirement(line) for line in installed.requires or []]
    environments = [{"extra": extra} for extra in ("", *requirement.extras)]
    return [each for each in found if each.marker is None or any(map(each.marker.evaluate, environments))]


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_file_has_all_that_is_asked_for_and_all_that_this_needs(name: str) -> None:
    releases = locked(name)
    todo = [Requirement(line) for line in ASKED[name]]
    seen: set[str] = set()
    while todo:
        each = todo.pop()
        if str(each) in seen:
            continue
        seen.add(str(each))
        assert canonicalize_name(each.name) in releases, f"locks/{name}.txt lacks {each}: make lock"
        release, _ = releases[canonicalize_name(each.name)]
        assert each.specifier.contains(pinned(release)), f"locks/{name}.txt names {release}, not {each}: make lock"
        todo += needed(each, pinned(release))


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_file_names_contents_and_no_place(name: str) -> None:
    for release, hashes in locked(name).values():
        assert release.url is None
        assert hashes, f"{release} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^ *--?(?!hash=)[a-z]", text, re.MULTILINE), "an option beside the hashes"


def test_no_two_lock_files_disagree() -> None:
    versions: dict[str, str] = {}
    for name in ASKED:
        for package, (release, _) in locked(name).items():
            assert versions.setdefault(package, pinned(release)) == pinned(release), package
    assert {path.stem for path in (ROOT / "locks").iterdir()} == set(ASKED)


def test_the_image_and_the_test_command_install_nothing_else() -> None:
    for name in ("Dockerfile", "Makefile", ".ci/run"):
        text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
        # What `make lowest` installs with uv is to be something else.
        calls = re.findall(r"(?<!/uv )pip (?:install|wheel)\b[^&;|\n]*", text)
        assert calls or name == ".ci/run"
        for call in calls:
            assert "--require-hashes" in call or "--no-deps" in call, f"{name}: {call}"


def found(**of: list[str]) -> dict[str, Any]:
    """Return a release as pip-audit prints it."""
    return {"name": "a", "version": "1", "vulns": [{"id": id_, "fix_versions": fixed} for id_, fixed in of.items()]}


UNKNOWN = {"name": "b", "skip_reason": "Dependency not found on the index"}


@pytest.mark.parametrize(
    ("releases", "code", "lines"),
    [
        ([found()], 0, ["audited: 1 releases, with 0 known faults"]),
        (
            [found(PYSEC=["2", "3"], GHSA=[]), UNKNOWN],
            1,
            [
                "KNOWN FAULT: a 1: PYSEC, mended in: 2, 3",
                "KNOWN FAULT: a 1: GHSA, mended in: no release yet",
                "NOT AUDITED: 1 of 2 releases, the first: Dependency not found on the index",
                "audited: 1 releases, with 2 known faults",
            ],
        ),
        (
            [UNKNOWN, UNKNOWN],
            0,
            [
                "NOT AUDITED: 2 of 2 releases, the first: Dependency not found on the index",
                "audited: 0 releases, with 0 known faults",
            ],
        ),
        (None, 0, ["NOT AUDITED: pip-audit got no answers: the index is away"]),
    ],
    ids=["sound", "faults", "a mirror that does not know", "no index"],
)
def test_the_audit_fails_on_a_known_fault_and_says_what_it_could_not_look_up(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    releases: list[dict[str, Any]] | None,
    code: int,
    lines: list[str],
) -> None:
    program = tmp_path / "pip-audit"
    answer = "" if releases is None else json.dumps({"dependencies": releases, "fixes": []})
    program.write_text(f"#!/bin/sh\necho 'Traceback\nthe index is away' >&2\necho '{answer}'\n")
    program.chmod(0o700)
    audit = runpy.run_path(str(ROOT / "tests" / "tools" / "audit.py"))["audit"]
    assert audit(str(program), []) == code
    assert capsys.readouterr().out.splitlines() == lines


def test_the_audit_passes_its_answer_on() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "tools" / "audit.py", "false"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "NOT AUDITED: pip-audit got no answers: \n")
