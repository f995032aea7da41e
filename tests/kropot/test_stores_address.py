"""Addresses of storages on other machines, and how they are reached: what is understood, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.durable.errors import StorageError
from kropot.errors import UsageError
from kropot.objects.stores.address import BucketAddress, SftpAddress, StorageAddress, parse_storage
from kropot.objects.stores.retry import Retries
from kropot.objects.stores.s3_settings import bucket_access
from kropot.objects.stores.sftp import SftpFiles
from tests.remote_stores import SshServer

if TYPE_CHECKING:
    from tests.conftest import RunCli
    from tests.remote_stores import Servers

UNDERSTOOD: list[tuple[str, StorageAddress, str]] = [
    ("storage", Path("storage"), "storage"),
    ("/srv/s3/x", Path("/srv/s3/x"), "/srv/s3/x"),
    ("s3://bucket", BucketAddress("bucket"), "s3://bucket"),
    ("S3://bucket/a/b/", BucketAddress("bucket", "a/b"), "s3://bucket/a/b"),
    ("sftp://host/srv/x", SftpAddress("host", "/srv/x"), "sftp://host/srv/x"),
    ("sftp://me@host:2222/~/x/", SftpAddress("host", "~/x", "me", 2222), "sftp://me@host:2222/~/x"),
    ("sftp://me@[::1]:22/x", SftpAddress("[::1]", "/x", "me", 22), "sftp://me@[::1]:22/x"),
    ("sftp://host/with%20space", SftpAddress("host", "/with space"), "sftp://host/with%20space"),
]
REFUSED = [
    "s3://",
    "s3:///prefix",
    "s3://AKIAKEY:hunter2hunter2@bucket/x",
    "s3://bucket/a//b",
    "s3://bucket/../b",
    "s3://bucket/a?b",
    "sftp://me:hunter2hunter2@host/x",
    "sftp://me:hunter2@hunter2@host/x",
    "sftp://host",
    "sftp://host/",
    "sftp://host/a/../b",
    "sftp://host:99999/x",
    "sftp://@host/x",
    "https://host/x",
]


@pytest.mark.parametrize(("text", "address", "shown"), UNDERSTOOD, ids=[row[0] for row in UNDERSTOOD])
def test_address_is_understood_and_shown(text: str, address: StorageAddress, shown: str) -> None:
    assert parse_storage(text) == address
    assert str(address) == shown
    assert parse_storage(shown) == address


@pytest.mark.parametrize("text", REFUSED)
def test_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_storage(text)
    assert "hunter2" not in str(caught.value)


def test_password_in_an_address_is_refused_and_not_shown(run_cli: RunCli) -> None:
    done = run_cli("--storage-path", "sftp://me:hunter2hunter2@host/x", "status")
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr
    assert "--storage-path" in done.stderr


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"AWS_ENDPOINT_URL": "https://h"}, "no keys for the bucket"),
        ({"AWS_ACCESS_KEY_ID": "akia"}, "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not"),
        ({"AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}, "AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID is not"),
        ({"AWS_ENDPOINT_URL": "bogus"}, "is not the address of a server"),
        ({"AWS_ENDPOINT_URL": "https://me:hunter2hunter2@h"}, "is not the address of a server"),
    ],
)
def test_environment_that_is_not_enough_is_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        bucket_access(environ, None)
    assert "hunter2" not in str(caught.value)


def test_keys_are_shown_nowhere() -> None:
    environ = {"AWS_ACCESS_KEY_ID": "AKIA-of-this-test", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}
    access = bucket_access({**environ, "AWS_SESSION_TOKEN": "session-of-this-test"}, None)
    assert not [value for value in environ.values() if value in repr(access)]
    assert "session-of-this-test" not in repr(access)


@pytest.mark.xdist_group("stores")
def test_server_whose_key_is_not_known_and_user_without_a_key_are_refused(
    store_servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = store_servers.get("sftp")
    assert isinstance(server, SshServer)
    known = (server.keys / ".ssh" / "known_hosts").read_text()
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    address = parse_storage(server.address("x"))
    assert isinstance(address, SftpAddress)
    files = SftpFiles(address, "one", retries=Retries(attempts=1))
    with pytest.raises(StorageError, match="is not in known_hosts"):
        files.stat("a")
    (home / ".ssh" / "known_hosts").write_text(known)
    with pytest.raises(StorageError, match=r"does not let .* in"):
        files.stat("a")
