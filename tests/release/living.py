"""Lives with the installed program: a service that collects, an alarm that comes and goes, and a restore."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.release.systems import BareSystem

PORT: Final = 28_471
FILES: Final = {"letter.txt": "Dear reader,\n", "notes/todo.txt": "mend the roof\n", "notes/done.txt": "sow\n"}


def lived_with(system: BareSystem, step: Callable[[str], AbstractContextManager[None]]) -> None:
    """Go through what a new user meets in the first days."""
    with step("kropotcli --version, 20 times"):
        began = time.monotonic()
        for _ in range(20):
            assert system.run("kropotcli", "--version").startswith("kropotcli ")
        print(f"          {(time.monotonic() - began) / 20:.2f} s each")
    with step("a token and its kit; the gateway serves"):
        for name, text in FILES.items():
            path = system.folder / "srv/files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (system.folder / "usb").mkdir()
        state = f"sqlite:///{system.path('usb/gateway.db')}"
        token = system.run(
            "kropotcli", "gateway", "token", "create", "--state", state, "--kit", system.path("usb/kit.json")
        )
        gateway = serve(system, state)
    service = None
    try:
        with step("a configuration, checked, and the units of the services"):
            configure(system, token)
            system.run("kropotcli", "config", "check")
            assert "ExecStart=" in system.run("kropotcli", "service", "install", "--system", "--dry-run")
        with step("the service collects, and everything is healthy"):
            service = system.start("kropotcli", "collect")
            wait_for("a healthy replica", lambda: healthy(system))
            assert service.poll() is None
        with step("a change is collected within a few seconds"):
            (system.folder / "srv/files/new.txt").write_text("news\n")
            wait_for("the new file", lambda: elements(system) == len(FILES) + 1)
        with step("the gateway dies: an alarm comes"):
            gateway.kill()
            gateway.wait()
            wait_for("an alarm", lambda: not healthy(system))
        with step("the gateway is back: the alarm goes"):
            gateway = serve(system, state)
            wait_for("a healthy replica", lambda: healthy(system))
        with step("the service stops when it is asked to"):
            service.send_signal(signal.SIGTERM)
            assert service.wait(30) == 0
        with step("everything is read and verified"):
            assert "everything is sound" in system.run("kropotcli", "verify")
        with step("the database is lost; it is made again from the storage"):
            for each in (system.folder / "backup").glob("ledger.db*"):
                each.unlink()
            system.run("kropotcli", "db", "recover", "--from-storage")
        with step("everything is restored with the kit"):
            restore(system)
    finally:
        gateway.kill()
        gateway.wait()
        if service is not None:
            service.kill()
            service.wait()


def serve(system: BareSystem, state: str):  # noqa: ANN201 - subprocess.Popen[str]
    """Start a gateway."""
    files = system.path("srv/files")
    return system.start(
        *(
            "kropotcli",
            "gateway",
            "serve",
            "--source",
            files,
            "--state",
            state,
            "--port",
            str(PORT),
            "--scan-every",
            "1s",
        )
    )


def configure(system: BareSystem, token: str) -> None:
    """Write what `config init` would write."""
    home = system.folder / ("root" if system.is_root else "home")
    folder = home / ".config/kropotcli"
    folder.mkdir(parents=True)
    (folder / "token").write_text(token)
    (folder / "token").chmod(0o600)
    (system.folder / "backup").mkdir()
    backup = system.path("backup")
    (folder / "config.toml").write_text(
        f'db-string = "sqlite:///{backup}/ledger.db"\n'
        f'storage-path = "{backup}/storage"\n'
        'refresh-time = "1s"\n'
        "[source.files]\n"
        f'server-url = "http://127.0.0.1:{PORT}"\n'
        f'token-file = "{system.path(str((folder / "token").relative_to(system.folder)))}"\n'
        "[collect]\n"
        'min-free = "100MiB"\n'
        "[status]\n"
        'expect-every = "5s"\n'
        'min-free = "100MiB"\n'
    )


def restore(system: BareSystem) -> None:
    """Restore everything with the kit, and compare it."""
    system.run("kropotcli", "restore", "--key", system.path("usb/kit.json"), "--to", system.path("tmp/restored"))
    for name, text in {**FILES, "new.txt": "news\n"}.items():
        assert (system.folder / "tmp/restored" / name).read_text() == text, name


def healthy(system: BareSystem) -> bool:
    """Whether `status --check` says so."""
    return _code(system, "kropotcli", "status", "--check") == 0


def elements(system: BareSystem) -> int:
    """Return how many files have a copy."""
    lines = map(json.loads, system.run("kropotcli", "ls", "--json").splitlines())
    return sum(each["state"] == "current" for each in lines) - 2  # the two folders


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = 120) -> None:
    """Wait until a condition holds. Raises: AssertionError saying what did not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.5)


def _code(system: BareSystem, *args: str) -> int:
    import subprocess

    return subprocess.run(system.line(*args), capture_output=True, check=False, timeout=60).returncode
