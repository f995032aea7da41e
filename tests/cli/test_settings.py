"""Where the value of an option comes from, and what is refused on the way."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.checkpoints.paths import default_key_path
from kropot.cli.settings import (
    GLOBAL_OPTIONS,
    ConfigFile,
    GlobalOption,
    Settings,
    find_config,
    is_readable_by_others,
    read_config,
    read_token,
    resolve,
)
from kropot.errors import UsageError
from kropot.gateway.revocations import default_revocations
from kropot.user_folders import config_folder, state_folder

TOKEN = "f9b2f8a0-token-of-a-test-0c1d"

FIRST_CLIENT = {
    "token",
    "server-url",
    "storage-path",
    "db-string",
    "instance-name",
    "log-level",
    "refresh-time",
    "http-timeout",
}


def file_with(**values: object) -> ConfigFile:
    return ConfigFile(path=Path("/etc/kropot.toml"), values=values, tables={})


def test_every_option_of_the_first_client_is_known() -> None:
    assert {option.name for option in GLOBAL_OPTIONS} >= FIRST_CLIENT


def test_defaults_are_those_of_the_first_client() -> None:
    settings = resolve({}, {}, None)
    assert settings.db_string == "sqlite:///database.db"
    assert settings.refresh_time == 300
    assert settings.http_timeout == 7200
    assert set(settings.origins.values()) == {"default"}


@given(
    flag=st.none() | st.integers(1, 9),
    env=st.none() | st.integers(1, 9),
    file=st.none() | st.integers(1, 9),
)
def test_flag_beats_environment_beats_file_beats_default(flag: int | None, env: int | None, file: int | None) -> None:
    settings = resolve(
        {} if flag is None else {"refresh_time": flag},
        {} if env is None else {"KROPOT_REFRESH_TIME": str(env)},
        None if file is None else file_with(refresh_time=file),
    )
    places = [(flag, "--refresh-time"), (env, "KROPOT_REFRESH_TIME"), (file, "refresh-time in /etc/kropot.toml")]
    value, origin = next(((v, o) for v, o in places if v is not None), (300, "default"))
    assert settings.refresh_time == value
    assert settings.origins["refresh_time"] == origin


@pytest.mark.parametrize("option", GLOBAL_OPTIONS, ids=lambda option: option.name)
def test_an_empty_environment_variable_counts_as_not_set(option: GlobalOption) -> None:
    assert resolve({}, {option.env: ""}, None) == resolve({}, {}, None)


def test_a_value_that_makes_no_sense_is_refused_by_its_origin() -> None:
    with pytest.raises(UsageError, match="KROPOT_HTTP_TIMEOUT"):
        resolve({}, {"KROPOT_HTTP_TIMEOUT": "soon"}, None)
    with pytest.raises(UsageError, match=r"http-timeout in /etc/kropot\.toml"):
        resolve({}, {}, file_with(http_timeout=True))
    with pytest.raises(UsageError, match="KROPOT_LOG_LEVEL"):
        resolve({}, {"KROPOT_LOG_LEVEL": "loud"}, None)


def test_log_level_is_taken_in_capitals_too() -> None:
    assert resolve({}, {"KROPOT_LOG_LEVEL": "DEBUG"}, None).log_level == "debug"


def test_a_stronger_place_decides_between_token_and_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    by_flag = resolve({"token_file": path}, {"KROPOT_TOKEN": "weaker-token"}, None)
    assert by_flag.need_token().reveal() == TOKEN
    by_env = resolve({}, {"KROPOT_TOKEN": TOKEN}, file_with(token_file=str(path)))
    assert by_env.token_file is None
    assert by_env.need_token().reveal() == TOKEN


def test_two_tokens_from_one_place_are_refused(tmp_path: Path) -> None:
    settings = resolve({"token": TOKEN, "token_file": tmp_path / "token"}, {}, None)
    with pytest.raises(UsageError, match="both --token and --token-file"):
        settings.need_token()


def test_a_token_is_looked_at_only_by_what_needs_it(tmp_path: Path) -> None:
    """`status`, `ls` and `verify` run in an environment whose token is wrong, doubled or not readable."""
    wrong = resolve({}, {"KROPOT_TOKEN": "two words", "KROPOT_DB_STRING": "sqlite:///x.db"}, None)
    doubled = resolve({}, {"KROPOT_TOKEN": TOKEN, "KROPOT_TOKEN_FILE": str(tmp_path / "token")}, None)
    missing = resolve({}, {"KROPOT_TOKEN_FILE": str(tmp_path / "token")}, None)
    assert wrong.db_string == "sqlite:///x.db"
    for settings, named in ((wrong, "KROPOT_TOKEN "), (doubled, "both KROPOT_TOKEN and"), (missing, "cannot read")):
        with pytest.raises(UsageError, match=named):
            settings.need_token()


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this user one without a home: none in the environment, and none in the system's list of users."""

    def unknown(uid: int) -> object:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_no_default_files_and_everything_else() -> None:
    assert config_folder() is None
    assert state_folder() is None
    assert find_config(None, {}) is None
    assert default_key_path(bytes(16)) is None
    assert resolve({"storage_path": Path("s")}, {}, None).storage_path == Path("s")
    with pytest.raises(UsageError, match="cannot tell which folder ~ means in ~/s: set HOME"):
        resolve({"storage_path": Path("~/s")}, {}, None)
    with pytest.raises(UsageError, match="--revocations"):
        default_revocations()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"  \n",
        b"two words",
        b"line\nline",
        "zażółć".encode(),
        b"\xff\xfe",
        b"x" * 9000,
        b"null\0byte",
        b'{"a":"kit"}\n',
    ],
)
def test_a_file_that_holds_no_token_is_refused_without_being_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_token(path)
    assert str(path) in str(caught.value)
    assert "words" not in str(caught.value).replace("one word", "")


def test_a_token_file_is_read_only_when_the_token_is_needed(tmp_path: Path) -> None:
    settings = resolve({"token_file": tmp_path / "missing"}, {}, None)
    with pytest.raises(UsageError, match="cannot read"):
        settings.need_token()


def test_settings_never_show_the_token_or_the_password() -> None:
    settings = resolve({"token": TOKEN, "db_string": "postgresql://me:hunter2222@db/ledger"}, {}, None)
    assert TOKEN not in repr(settings)
    assert "hunter2222" not in repr(settings)
    assert settings.place == "postgresql://me:[hidden]@db/ledger"


@pytest.mark.parametrize(
    "url",
    [
        "files.example.org",
        "ftp://files.example.org",
        "https://",
        "https://a/?x=1",
        "http://u:pw@a",
        "http://a:notaport",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--server-url") as caught:
        resolve({"server_url": url}, {}, None)
    assert "pw" not in str(caught.value).replace("password", "")


def test_a_server_is_known_without_its_trailing_slash() -> None:
    assert resolve({"server_url": "https://a.example/b/"}, {}, None).need_server_url() == "https://a.example/b"


@pytest.mark.parametrize(
    ("url", "is_exposed"),
    [
        ("http://files.example.org", True),
        ("http://192.0.2.1:8000", True),
        ("http://localhost.example.org", True),
        ("https://files.example.org", False),
        ("http://localhost:8000", False),
        ("http://127.0.0.2", False),
        ("http://[::1]:8000", False),
    ],
)
def test_plain_http_is_exposed_beyond_this_machine(url: str, *, is_exposed: bool) -> None:
    assert resolve({"server_url": url}, {}, None).is_exposed is is_exposed


@pytest.mark.parametrize("name", ["", "..", "a/b", "a" * 65, "a b", "a\n"])
def test_an_instance_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--instance-name"):
        resolve({"instance_name": name}, {}, None)


def test_names_in_the_file_may_be_spelt_with_dashes(tmp_path: Path) -> None:
    path = tmp_path / "kropot.toml"
    path.write_text('refresh-time = 5\nlog_level = "error"\n[collect]\nmin-free = 7\n')
    file = read_config(path)
    assert file.values == {"refresh_time": 5, "log_level": "error"}
    assert file.tables == {"collect": {"min_free": 7}}


@pytest.mark.parametrize("text", ["refresh_tme = 5", "refresh-time =", "\x00", "config = 'x'"])
def test_a_file_with_a_mistake_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kropot.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"kropot\.toml"):
        resolve({}, {}, read_config(path))


def test_missing_token_and_server_are_told_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="--token-file"):
        Settings().need_token()
    with pytest.raises(UsageError, match="--server-url"):
        Settings().need_server_url()


def test_a_file_that_others_can_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    assert not is_readable_by_others(path)
    path.chmod(0o644)
    assert is_readable_by_others(path)
    assert not is_readable_by_others(tmp_path / "missing")
