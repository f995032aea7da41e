"""`lock-days` in the table [storage]: what it may be, and for which storages."""

from __future__ import annotations

from pathlib import Path

import pytest

from kropot.cli.settings import read_config, resolve
from kropot.errors import UsageError
from kropot.objects.stores.address import BucketAddress


def resolved(folder: Path, text: str) -> object:
    file = folder / "config.toml"
    file.write_text(text)
    return resolve({}, {}, read_config(file)).storage_path


def test_it_belongs_to_the_bucket_and_leaves_the_tables_of_commands_alone(tmp_path: Path) -> None:
    text = 'storage-path = "s3://bucket/prefix"\n[storage]\nlock-days = 30\n[storage.clean]\ngrace = "9d"\n'
    assert resolved(tmp_path, text) == BucketAddress("bucket", "prefix", lock_days=30)
    assert read_config(tmp_path / "config.toml").tables == {"storage": {"clean": {"grace": "9d"}}}
    assert str(BucketAddress("bucket", "prefix", lock_days=30)) == "s3://bucket/prefix"


@pytest.mark.parametrize("value", ["0", "-1", "true", "1.5", '"30"', "36501"])
def test_it_is_a_whole_number_of_days(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match=r"\[storage\] lock-days is .*: write the bucket's default retention in days"):
        resolved(tmp_path, f'storage-path = "s3://bucket"\n[storage]\nlock-days = {value}\n')


@pytest.mark.parametrize("place", ["folder", "sftp://user@host/path"])
def test_only_a_bucket_can_lock(tmp_path: Path, place: str) -> None:
    with pytest.raises(
        UsageError, match=f"{place} is not a bucket, and only an s3:// storage can lock what is written"
    ):
        resolved(tmp_path, f'storage-path = "{place}"\n[storage]\nlock-days = 30\n')


def test_the_file_of_an_environment_and_a_flag_are_meant_alike(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[storage]\nlock-days = 7\n")
    config = read_config(file)
    with pytest.raises(UsageError, match="is not a bucket"):
        resolve({"storage_path": Path("elsewhere")}, {}, config)
    found = resolve({}, {"KROPOT_STORAGE_PATH": "s3://other"}, config)
    assert found.storage_path == BucketAddress("other", lock_days=7)
