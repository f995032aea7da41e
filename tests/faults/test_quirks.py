"""Each quirk of the server of 2020, switched the other way, and the faults of its lists that leave no trace."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest

from kropot.errors import Exit
from tests.faults.test_hostile_server import TOKEN, Replica, files, name_of
from tests.oldserver import (
    BitFlip,
    OldServer,
    Quirks,
    always,
    numbered,
    page_cut_between_lines,
    reordered_lines,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

# What is not a switch of two positions, and where another position than the observed one is to be tried.
OTHERWISE: dict[str, Any] = {"encrypted_page_cap": 20, "content_time_limit": 496}
# A plain token is what these are about.
PLAIN = {"plain_content_fails"}


def other_way(name: str) -> Quirks:
    usual = Quirks()
    return replace(usual, **{name: OTHERWISE.get(name, not getattr(usual, name))})


@pytest.mark.parametrize("name", [each.name for each in fields(Quirks)])
def test_a_server_with_one_quirk_less_is_copied_just_as_well(run_cli: RunCli, tmp_path: Path, name: str) -> None:
    with OldServer(files(60), token=TOKEN, quirks=other_way(name), encrypted=name not in PLAIN) as server:
        if name == "validates_names":
            server.add("za\u017c\u00f3\u0142\u0107.txt", b"a name that the other server cannot list")
        replica = Replica(server, run_cli, tmp_path)
        code, _, told = replica.run("collect", "--once", timeout_s=20)
        server.add("plain-name-later.txt", b"later")
        late, _, _ = replica.run("collect", "--once", timeout_s=20)
        if name in PLAIN:
            assert (code, late) == (Exit.DONE, Exit.DONE)
            assert "not zero-knowledge" in told
            assert {element.state for element in replica.elements().values()} == {"current"}
            return
        expected = set(server.names())
        if name == "content_time_limit":
            # What takes PHP too long ends in its error page: no copy, and no other is harmed.
            assert (code, late) == (Exit.PARTIAL, Exit.PARTIAL)
            expected = {each for each in expected if len(server.content(each)) < OTHERWISE[name]}
            assert expected != set(server.names())
        else:
            assert (code, late) == (Exit.DONE, Exit.DONE)
        assert replica.assert_sound() == expected


def test_lines_out_of_order_hide_no_file(run_cli: RunCli, tmp_path: Path) -> None:
    with OldServer(files(300), token=TOKEN, plan=always(reordered_lines(), "list")) as server:
        replica = Replica(server, run_cli, tmp_path)
        while replica.run("collect", "--once", "--full", timeout_s=20)[0] != Exit.DONE:
            assert len(server.requests) < 20_000
        assert replica.assert_sound() == set(server.names())


def test_half_a_page_behind_a_clean_end_makes_no_file_vanish(run_cli: RunCli, tmp_path: Path) -> None:
    """Nothing in the page tells; but a listing goes on until there is nothing more to ask for."""
    with OldServer(files(60), token=TOKEN) as server:
        replica = Replica(server, run_cli, tmp_path)
        assert replica.run("collect", "--once")[0] == Exit.DONE
        asked = len(server.requests)
        server.plan = numbered({asked + 1: page_cut_between_lines(), asked + 2: page_cut_between_lines()})
        replica.run("collect", "--once", "--full")
        assert len(server.asked("list")) > 3
        assert all(element.present for element in replica.elements().values())
        server.plan = None
        assert replica.run("collect", "--once", "--full")[0] == Exit.DONE
        assert replica.assert_sound() == set(server.names())


def test_a_flipped_bit_is_stored_as_it_came_and_told_by_no_client_without_the_key(
    run_cli: RunCli, tmp_path: Path
) -> None:
    """The protocol has no checksum: what the ledger proves is what was received."""
    with OldServer({name_of(1): b"bread and roses " * 9}, token=TOKEN, plan=always(BitFlip(), "content")) as server:
        replica = Replica(server, run_cli, tmp_path)
        assert replica.run("collect", "--once")[0] == Exit.DONE
        assert replica.run("verify")[0] == Exit.DONE


def test_dates_that_repeat_lie_ahead_or_change_hide_no_file(run_cli: RunCli, tmp_path: Path) -> None:
    count = 300
    with OldServer(files(count), token=TOKEN) as server:
        second = server.now() - 3600
        for number in range(count):
            server.redate(name_of(number), second if number % 7 else server.now() + 400 * 86_400)
        replica = Replica(server, run_cli, tmp_path)
        assert replica.run("collect", "--once", timeout_s=20)[0] == Exit.DONE
        assert replica.assert_sound() == set(server.names())
        # Behind the cursor, in a second that was listed, and ahead: each is found by the next whole listing.
        server.add("plain-name-same-second.txt", b"same", at=second)
        server.add("plain-name-long-ago.txt", b"long ago", at=second - 40 * 86_400)
        server.add("plain-name-ahead.txt", b"ahead", at=server.now() + 500 * 86_400)
        server.redate(name_of(0), second)
        assert replica.run("collect", "--once", "--full", timeout_s=20)[0] == Exit.DONE
        assert replica.assert_sound() == set(server.names())


def test_a_change_of_zone_in_mid_run_hides_no_file(run_cli: RunCli, tmp_path: Path) -> None:
    with OldServer(files(300), token=TOKEN) as server:
        server.before(2, lambda: server.set_zone("Asia/Kolkata"))
        replica = Replica(server, run_cli, tmp_path)
        replica.run("collect", "--once", timeout_s=20)
        assert replica.run("collect", "--once", "--full", timeout_s=20)[0] == Exit.DONE
        assert replica.assert_sound() == set(server.names())


def test_a_hundred_thousand_files_of_one_second_are_listed_as_far_as_the_server_can_and_the_rest_is_told(
    run_cli: RunCli, tmp_path: Path
) -> None:
    """No page of the server of 2020 can reach beyond the first of them: that must not look like success."""
    with OldServer(files(20), token=TOKEN) as server:
        server.add_many([f"plain-name-same-{number}.txt" for number in range(100_000)], b"x", at=server.now() - 30)
        replica = Replica(server, run_cli, tmp_path)
        code, _, told = replica.run("collect", "--once", timeout_s=20)
        assert code == Exit.PARTIAL, told
        assert "the server cannot list all elements of 1 second" in told
        copied = replica.assert_sound()
        assert copied >= {name_of(number) for number in range(20)}
        assert len(copied) > 1000
        assert all(element.present for element in replica.elements().values())
