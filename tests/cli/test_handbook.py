"""The handbook's recipes, typed as they stand there, each page in a world of its own.

A page's blocks marked `sh` are one script. `# exits 3` behind a command says its exit code. What a person does by hand,
and what the bad day does, stands in comments that readers of the site do not see: `<!-- test: COMMAND -->`, and
`<!-- test-before: COMMAND -->` for what must be there first.
"""

from __future__ import annotations

import json
import os
import re
import socketserver
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from kropot.demo import vault_spec
from kropot.gateway.server import GatewayServer
from kropot.serving.keyfile import write_new_key
from tests.remote_stores import BucketServer
from tests.versioned_bucket import VersionedBucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.forked import ForkedProgram
    from tests.remote_stores import Servers

ROOT: Final = Path(__file__).parents[2]
IN_BUCKET: Final = ROOT / "docs" / "handbook" / "locked-bucket.md"
PAGES: Final = sorted(set((ROOT / "docs" / "handbook").glob("*.md")) - {IN_BUCKET})
PLACES: Final = re.compile(r"(?<![\w.])/(?=(?:srv|backup|media|mnt|var/lib/kropotcli|etc/kropotcli)\b)")
FRAME: Final = """\
set -euo pipefail
expect() {
    local wanted=$1 got=0
    shift
    "$@" || got=$?
    [ "$got" = "$wanted" ] || { echo "exit code $got, not $wanted: $*" >&2; exit 99; }
}
# begin
"""
CONFIG: Final = """\
db-string = "sqlite:////backup/ledger.db"
storage-path = "/backup/storage"

[source.files]
server-url = "https://files.example.org"
token-file = "/etc/kropotcli/files.token"

[collect]
min-free = "1MiB"
"""
SHIM: Final = """\
#!{python} -SE
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({socket!r})
link.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
code, out, err = json.loads(b"".join(iter(lambda: link.recv(65536), b"")))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def script_of(page: Path) -> str:
    """Return a page's recipe as a script."""
    text = page.read_text()
    parts = [*re.findall(r"<!-- test-before: (.*?) -->", text), ""]
    for block, aside in re.findall(r"^```sh\n(.*?)^```$|^<!-- test: (.*?) -->$", text, re.MULTILINE | re.DOTALL):
        parts.append(re.sub(r"^(.*\S) *# exits (\d+)$", r"expect \2 \1", block, flags=re.MULTILINE) or aside)
    return FRAME + "\n".join(parts)


@contextmanager
def program_at(folder: Path, forked: ForkedProgram) -> Iterator[None]:
    """Put a `kropotcli` into the folder that runs in a fork: most of a short run is its imports."""
    place = str(folder / "socket")

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            args, cwd, env = json.loads(self.rfile.readline())
            done = forked.run(args, cwd=Path(cwd), env=env, stdin=None, timeout=60)
            self.wfile.write(json.dumps([done.returncode, done.stdout, done.stderr]).encode())

    shim = folder / "kropotcli"
    shim.write_text(SHIM.format(python=sys.executable, socket=place))
    shim.chmod(0o755)
    with socketserver.UnixStreamServer(place, Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def world(folder: Path, *, is_new: bool) -> Iterator[str]:
    """Make the machines of the handbook in a folder, and serve the files; yield the server's address.

    Unless it `is_new`, the token and its kit are made, and a collector is configured.
    """
    for name in ("srv/files/photos", "media/usb", "mnt/stick", "backup", "var/lib/kropotcli", "etc/kropotcli", "home"):
        (folder / name).mkdir(parents=True)
    (folder / "srv/files/letter.txt").write_text("Dear reader,\n")
    (folder / "srv/files/photos/sun.jpg").write_bytes(bytes(range(256)) * 40)
    config = folder / "home/.config/kropotcli/config.toml"
    config.parent.mkdir(parents=True)
    state = folder / "var/lib/kropotcli/gateway.db"
    key = write_new_key(state.with_name("gateway.db.key"))
    with GatewayServer(
        folder / "srv/files", f"sqlite:///{state}", key, revocations=folder / "home/revoked", settle_s=0
    ) as gateway:
        if not is_new:
            token, kit = gateway.create_vault_token(vault_spec())
            (folder / "etc/kropotcli/files.token").write_text(token)
            (folder / "etc/kropotcli/files.token").chmod(0o600)
            (folder / "media/usb/kit.json").write_bytes(kit.encode())
            (folder / "media/usb/kit.json").chmod(0o600)
            config.write_text(here(CONFIG, folder, gateway.url))
        yield gateway.url


def here(text: str, folder: Path, url: str) -> str:
    """Return a text with this world's places and address."""
    return PLACES.sub(f"{folder}/", text).replace("https://files.example.org", url)


def typed(lines: str, folder: Path, **more: str) -> None:
    """Run a script, which must end well."""
    home = folder / "home"
    env = os.environ | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_STATE_HOME": str(home / ".local/state"),
        "PATH": f"{folder}:{os.environ['PATH']}",
        **more,
    }
    done = subprocess.run(
        ["bash", "-xc", lines], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_recipe_works_as_it_is_typed(page: Path, tmp_path: Path, forked: ForkedProgram) -> None:
    is_new = page.stem == "first-hour"
    with world(tmp_path, is_new=is_new) as url, program_at(tmp_path, forked):
        lines = here(script_of(page), tmp_path, url)
        assert lines.count("kropotcli ") >= 3, "this page has no recipe"
        typed(lines.replace("# begin\n", "" if is_new else "kropotcli collect --once\n", 1), tmp_path)


@pytest.mark.xdist_group("stores")
def test_the_recipe_for_a_locked_bucket_works_as_it_is_typed(
    tmp_path: Path, forked: ForkedProgram, store_servers: Servers
) -> None:
    """Whoever has the collector's keys removes everything that it stored."""
    server = store_servers.get("seaweedfs")
    assert isinstance(server, BucketServer)
    bucket = VersionedBucket(server, "COMPLIANCE")
    with world(tmp_path, is_new=False) as url, program_at(tmp_path, forked):
        config = tmp_path / "home/.config/kropotcli/config.toml"
        told = config.read_text().replace(f"{tmp_path}/backup/storage", bucket.address)
        config.write_text(f"{told}\n[storage]\nlock-days = 1\n")
        typed("kropotcli collect --once", tmp_path, **server.env())
        with closing(bucket.files()) as files:
            for stat in [*files.walk("objects"), *files.walk("packs"), *files.walk("ledger")]:
                files.remove(stat.key)
        typed(here(script_of(IN_BUCKET), tmp_path, url), tmp_path, **server.env())
    assert (tmp_path / "srv/restored/letter.txt").read_text() == "Dear reader,\n"


def test_a_recipe_that_fails_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nfalse   # exits 1\ntrue\n```\n\n<!-- test: test -e nothing -->\n")
    assert subprocess.run(["bash", "-c", script_of(page)], cwd=tmp_path, check=False).returncode == 1
    page.write_text("```sh\ntrue   # exits 3\n```\n")
    assert subprocess.run(["bash", "-c", script_of(page)], cwd=tmp_path, check=False).returncode == 99
