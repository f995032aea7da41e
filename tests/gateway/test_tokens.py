"""Tokens: what may be asked for, who is admitted, and what of them rests in the database."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.durable.newfile import write_new
from kropot.errors import NoLedgerError, UsageError, WrongKeyError
from kropot.gateway.entries import element_of
from kropot.gateway.keys import MasterKey
from kropot.gateway.state import StateError, TokenExistsError, open_state
from kropot.gateway.tokens import REMEMBERED_S, ROUNDS_OF_MADE_KEYS, TokenBook, shown_token
from kropot.gateway.tokenspec import SpecError, parse_spec
from kropot.sc2.kits import STORED_SALT, parse_kit
from kropot.securecopy.sealing import element_id
from kropot.serving.keyfile import read_key, write_new_key
from tests.gateway.serve import DOCUMENTED, KEY, PLAIN, SEALED, STREAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kropot.gateway.state import State

NOW = 1_800_000_000
NO_TIME = "this must be a UTC time like 2030-05-01 01:06:01, or auto, or never"


class Clock:
    def __init__(self) -> None:
        self.now, self.ticks = NOW, 0.0

    def seconds(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.ticks


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(f"sqlite:///{tmp_path / 'gateway.db'}", create=True)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(state: State, clock: Clock) -> TokenBook:
    return TokenBook(state, MasterKey(KEY), clock_s=clock.seconds, monotonic=clock.monotonic)


def asked(**data: Any) -> dict[str, Any]:
    return {**STREAM, "data": data}


def refused(spec: Any) -> dict[str, list[str]]:
    with pytest.raises(SpecError) as caught:
        parse_spec(spec, now_s=NOW, rounds_of_made_keys=4)
    return caught.value.fields


def without(*names: str) -> dict[str, Any]:
    spec = copy.deepcopy(DOCUMENTED)
    for name in names:
        del spec["data"][name]  # type: ignore[attr-defined]
    return spec


@pytest.mark.parametrize(
    "missing",
    [
        ("secureCopyDigestSalt",),
        ("secureCopyEncryptionMethod",),
        ("secureCopyDigestMethod", "secureCopyDigestRounds"),
    ],
)
def test_with_a_key_all_five_fields_are_needed(missing: tuple[str, ...]) -> None:
    assert refused(without(*missing)) == {"data": ["secure_copy_options_incomplete_fill_all_or_nothing"]}


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({**PLAIN, "id": "not-a-uuid"}, "id", "id_expects_to_be_uuidv4_format"),
        ({**PLAIN, "id": "6e2d1b2a-7a0f-1c5e-9d43-0f0d5a6b7c81"}, "id", "id_expects_to_be_uuidv4_format"),
        ({**PLAIN, "id": 5}, "id", "id_expects_to_be_uuidv4_format"),
        ({"expires": "never", "data": {}}, "roles", "This value is not valid."),
        ({"roles": [], "expires": "never"}, "roles", "This value is not valid."),
        ({"roles": "securecopy.stream", "expires": "never"}, "roles", "This value is not valid."),
        ({"roles": ["securecopy.stream"]}, "expires", NO_TIME),
        ({**PLAIN, "data": [1]}, "data", "This value is not valid."),
        ({**PLAIN, "extra": 1}, "form.extra", "This form should not contain extra fields."),
        (asked(allowedIPs=["10.0.0.1"]), "form.data.allowedIPs", "This form should not contain extra fields."),
        (asked(allowedIpAddresses=["10.0.0.256"]), "form.data.allowedIpAddresses", "This value is not valid."),
        (asked(tags=["x"]), "form.data.tags", "This value is not valid."),
        (asked(maxAllowedFileSize=-1), "form.data.maxAllowedFileSize", "This value is not valid."),
        (asked(maxAllowedFileSize=1.5), "form.data.maxAllowedFileSize", "This value is not valid."),
        (asked(secureCopyEncryptionMethod="SOME"), "form.data.secureCopyEncryptionMethod", "This value is not valid."),
        (asked(secureCopyDigestMethod="md5"), "form.data.secureCopyDigestMethod", "This value is not valid."),
        (asked(secureCopyDigestRounds=100_001), "form.data.secureCopyDigestRounds", "This value is not valid."),
        ([], "form", "this must be a JSON object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(spec: Any, field: str, message: str) -> None:
    assert refused(spec) == {field: [message]}


def test_documented_example_is_kept_as_it_was_asked(book: TokenBook) -> None:
    made = book.create(DOCUMENTED)
    assert made.kit is None
    kit = made.token.kit
    assert kit is not None
    assert (kit.passphrase, kit.digest, kit.rounds) == ("golden passphrase: bread and roses", "sha512", 6000)
    assert shown_token(made.token, now_s=NOW)["data"]["maxAllowedFileSize"] == 0


def test_secrets_are_trimmed_as_the_old_server_trims(book: TokenBook) -> None:
    spec = copy.deepcopy(DOCUMENTED)
    spec["data"]["secureCopyEncryptionKey"] = "  padded passphrase \t"  # type: ignore[index]
    kit = book.create(spec).token.kit
    assert kit is not None
    assert kit.passphrase == "padded passphrase"


@pytest.mark.parametrize("spec", [SEALED, without("secureCopyEncryptionKey")], ids=["method only", "all but the key"])
def test_missing_key_is_made_of_256_random_bits_with_few_rounds(book: TokenBook, spec: dict[str, Any]) -> None:
    one = book.create(spec)
    assert one.kit is not None
    data = one.kit["data"]
    assert len(bytes.fromhex(data["secureCopyEncryptionKey"])) == 32
    assert data["secureCopyDigestRounds"] == ROUNDS_OF_MADE_KEYS < 10
    asked = {name: value for name, value in one.kit.items() if name != STORED_SALT}
    again = parse_spec(asked, now_s=NOW, rounds_of_made_keys=4)
    assert again.sealing is not None
    assert again.sealing.passphrase == data["secureCopyEncryptionKey"], "a kit is a specification itself"


def test_token_without_an_id_gets_an_upper_case_uuid(book: TokenBook) -> None:
    made = book.create(PLAIN).token.id
    assert made == made.upper()
    assert made[14] == "4"
    assert made != book.create(PLAIN).token.id


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        ("auto", NOW + 1800),
        ("2030-05-01 01:06:01", 1_903_827_961),
        ("2030-05-01T03:06:01+02:00", 1_903_827_961),
        ("2001-01-01 00:00:00", 978_307_200),
    ],
)
def test_expiry_is_read_in_utc(expires: str, seconds: int) -> None:
    spec = parse_spec({**PLAIN, "expires": expires}, now_s=NOW, rounds_of_made_keys=4)
    assert spec.expires_s == seconds


def test_never_is_forty_years() -> None:
    leap_day = 1_835_395_200
    for now in (NOW, leap_day):
        spec = parse_spec({**PLAIN, "expires": "never"}, now_s=now, rounds_of_made_keys=4)
        assert 14_609 <= (spec.expires_s - now) // 86_400 <= 14_610


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["id", "roles", "expires", "data", "secureCopyEncryptionKey", "secureCopyDigestRounds", "tags"])


@given(top=st.dictionaries(names, json_values, max_size=4), data=st.dictionaries(names, json_values, max_size=4))
def test_any_json_is_a_request_or_a_named_error(top: dict[str, Any], data: dict[str, Any]) -> None:
    for value in (top, {**PLAIN, "data": data}, {**copy.deepcopy(DOCUMENTED), **top}):
        try:
            outcome = bool(parse_spec(value, now_s=NOW, rounds_of_made_keys=4).roles)
        except SpecError as error:
            outcome = bool(error.fields)
        assert outcome


def refusal(
    book: TokenBook, spec: dict[str, Any], *, now: int = NOW, ip: str = "127.0.0.1", agent: str = "a"
) -> str | None:
    return book.create(spec).token.refusal(now_s=now, ip=ip, user_agent=agent)


def test_addresses_clients_and_expiry_are_enforced(book: TokenBook) -> None:
    assert refusal(book, PLAIN) is None
    assert refusal(book, {**PLAIN, "expires": "2001-01-01 00:00:00"}) == "the token has expired"
    assert refusal(book, {**PLAIN, "expires": "auto"}, now=NOW + 1799) is None
    assert refusal(book, {**PLAIN, "expires": "auto"}, now=NOW + 1800) == "the token has expired"
    near = asked(allowedIpAddresses=["10.1.0.0/16", "::1"])
    for ip, fine in {"10.1.2.3": True, "::ffff:10.1.2.3": True, "::1": True, "10.2.0.1": False, "x": False}.items():
        assert (refusal(book, near, ip=ip) is None) == fine, ip
    agents = asked(allowedUserAgents=["kropotcli", "curl/8"])
    for agent, fine in {"kropotcli": True, "curl/8": True, "curl/8.1": False, "": False}.items():
        assert (refusal(book, agents, agent=agent) is None) == fine, agent


def test_token_is_found_by_its_whole_id_only(book: TokenBook) -> None:
    token = book.create(DOCUMENTED).token
    assert book.find(token.id) == token
    for other in (token.id[:-1], token.id + "0", token.id.upper(), token.id + "\0", "", "ł" * 36, "x" * 100_000):
        assert book.find(other) is None


def test_revoked_token_is_refused_at_once_here_and_soon_elsewhere(state: State, clock: Clock) -> None:
    def another() -> TokenBook:
        return TokenBook(state, MasterKey(KEY), clock_s=clock.seconds, monotonic=clock.monotonic)

    here, there = another(), another()
    made = here.create(PLAIN).token
    assert there.find(made.id) == made
    here.revoke(made.id)
    found = here.find(made.id)
    assert found is not None
    assert found.refusal(now_s=NOW, ip=None, user_agent="") == "the token was revoked"
    clock.ticks += REMEMBERED_S + 0.01
    found = there.find(made.id)
    assert found is not None
    assert found.revoked_s == NOW


def test_token_is_revoked_by_number_too_but_not_by_guesses(book: TokenBook) -> None:
    made = book.create(PLAIN).token
    with pytest.raises(UsageError):
        book.revoke("99")
    with pytest.raises(UsageError):
        book.revoke(made.id[:8])
    assert book.revoke(str(made.number)).id == made.id
    assert [token.revoked_s for token in book.all()] == [NOW]


def test_a_kit_binds_the_ids_of_its_token_to_paths(book: TokenBook) -> None:
    made = book.create(SEALED)
    assert made.kit is not None
    (key,) = parse_kit(json.dumps(made.kit).encode(), name="kit").cbc  # type: ignore[union-attr]
    assert key.stored_salt is not None
    assert element_id(key.stored_salt, b"docs/a.txt", key.kit.digest) == element_of(made.token, b"docs/a.txt")


def test_nothing_secret_rests_in_the_database(book: TokenBook, state: State, tmp_path: Path) -> None:
    book.create(DOCUMENTED)
    made = book.create(SEALED)
    state.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made.kit is not None
    secrets = [DOCUMENTED["id"], "golden passphrase", "golden-salt", made.token.id, KEY.hex()]
    secrets += [made.kit["data"]["secureCopyEncryptionKey"], made.kit["data"]["secureCopyDigestSalt"]]
    for secret in secrets:
        assert str(secret).encode() not in kept
    for secret in (KEY, made.token.iv_key, bytes.fromhex(secrets[-2])):  # type: ignore[arg-type]
        assert secret not in kept


def test_no_repr_shows_a_secret(book: TokenBook) -> None:
    made = book.create(SEALED)
    assert made.kit is not None
    shown = repr(made) + repr(parse_spec(DOCUMENTED, now_s=NOW, rounds_of_made_keys=4))
    secrets = (made.token.id, made.kit["data"]["secureCopyEncryptionKey"], made.token.stored_salt, "golden", "6e2d1b2a")
    for secret in (*secrets, repr(made.token.iv_key)):
        assert secret not in shown


def test_another_master_key_is_refused(book: TokenBook, state: State) -> None:
    book.create(PLAIN)
    with pytest.raises(WrongKeyError):
        TokenBook(state, MasterKey(bytes(32)))


def test_moved_or_changed_seal_does_not_open() -> None:
    master = MasterKey(KEY)
    sealed = master.seal(b"secret", bound_to=b"here")
    assert master.open(sealed, bound_to=b"here") == b"secret"
    for broken, where in ((sealed, b"there"), (sealed[:-1], b"here"), (b"", b"here"), (bytes(40), b"here")):
        with pytest.raises(WrongKeyError):
            master.open(broken, bound_to=where)


def test_same_id_is_made_once_however_many_ask(book: TokenBook) -> None:
    def ask(_: int) -> bool:
        try:
            book.create(DOCUMENTED)
        except TokenExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(24))) == 1
        many = list(pool.map(lambda _: book.create(SEALED).token.id, range(24)))
    assert len(set(many)) == 24
    assert len(book.all()) == 25


def test_kit_that_cannot_be_kept_makes_no_token(book: TokenBook, tmp_path: Path) -> None:
    def fail(_: dict[str, Any]) -> Path:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        book.create(SEALED, fail)
    assert book.all() == []
    kept = tmp_path / "kit"

    def keep(kit: dict[str, Any]) -> Path:
        kept.write_text(json.dumps(kit))
        return kept

    book.create({**SEALED, "id": DOCUMENTED["id"]}, keep)
    with pytest.raises(TokenExistsError):
        book.create({**SEALED, "id": DOCUMENTED["id"]}, keep)
    assert not kept.exists(), "a kit without a token is taken away again"


def test_master_key_file_is_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "master.key"
    key = write_new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path) == key
    with pytest.raises(FileExistsError):
        write_new_key(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="other users"):
        read_key(path)
    for text in ("", "x", "AAAA", "!" * 44):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(UsageError, match="does not hold a master key"):
            read_key(path)


def test_kit_can_be_written_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(self), None, str(target))

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    write_new(tmp_path / "kit", b"kit")
    assert (tmp_path / "kit").read_bytes() == b"kit"
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "kit", b"other")
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


def test_database_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "database.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE logs (id INTEGER)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match="another program"):
        open_state(f"sqlite:///{path}", create=True)
    assert path.read_bytes() == before


def test_missing_database_is_made_only_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(NoLedgerError, match=str(tmp_path)):
        open_state(f"sqlite:///{tmp_path / 'none.db'}", create=False)
    assert list(tmp_path.iterdir()) == []
    open_state(f"sqlite:///{tmp_path / 'sub' / 'new.db'}", create=True).close()
    assert (tmp_path / "sub" / "new.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StateError):
        open_state("sqlite:////proc/none/x.db", create=True)
    for url in ("nonsense", "unknown://x/y"):
        with pytest.raises(UsageError):
            open_state(url, create=True)
