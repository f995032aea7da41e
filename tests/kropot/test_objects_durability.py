"""Which way of making files durable is chosen where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kropot.durable.batch import choose, choose_method, kernel_version
from kropot.durable.filesystem import file_system_type

if TYPE_CHECKING:
    from pathlib import Path

EXT4, NFS, FUSE, CIFS, OVERLAY = 0xEF53, 0x6969, 0x65735546, 0xFF534D42, 0x794C7630


def test_batches_are_synced_at_once_on_a_local_file_system_of_a_new_kernel() -> None:
    assert choose(platform="linux", release="5.8.0", magic=EXT4).method == "syncfs"
    assert choose(platform="linux", release="6.18.44-fc", magic=EXT4).method == "syncfs"


@pytest.mark.parametrize("release", ["5.7.19", "4.18.0-553.el8.x86_64", "3.10.0", "nonsense", "", "5"])
def test_older_or_unknown_kernels_get_an_fsync_a_file(release: str) -> None:
    chosen = choose(platform="linux", release=release, magic=EXT4)
    assert chosen.method == "fsync"
    assert release in chosen.why


@pytest.mark.parametrize("magic", [NFS, FUSE, CIFS, OVERLAY, 0, 0x1234])
def test_network_fuse_and_unknown_file_systems_get_an_fsync_a_file(magic: int) -> None:
    assert choose(platform="linux", release="6.1.0", magic=magic).method == "fsync"


def test_other_platforms_get_an_fsync_a_file() -> None:
    assert choose(platform="darwin", release="23.1.0", magic=None).method == "fsync"


def test_kernel_version_is_read_as_far_as_it_is_one() -> None:
    assert kernel_version("6.1.0-13-amd64") == (6, 1)
    assert kernel_version("5.15-rc3") == (5, 15)
    assert kernel_version("x.y") == (0, 0)


def test_file_system_of_this_test_is_known_to_the_system(tmp_path: Path) -> None:
    magic = file_system_type(str(tmp_path))
    assert magic is None or magic > 0
    assert choose_method(str(tmp_path)).why
    with pytest.raises(FileNotFoundError):
        choose_method(str(tmp_path / "missing"))
