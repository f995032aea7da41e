"""The gateway over real HTTP: what a collector, and a client of the old server, gets to see."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from kropot.securecopy.client import SecureCopyClient
from kropot.securecopy.content import IV_HEADER
from kropot.securecopy.sealing import Kit, element_id, sealed_size
from tests.gateway.serve import ADMIN, DOCUMENTED, PLAIN, SEALED, STREAM, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    b"empty": b"",
    b"one": b"1",
    b"fifteen": b"x" * 15,
    b"sixteen": b"x" * 16,
    b"seventeen": b"x" * 17,
    b"sub/deep/er/file.txt": b"hello" * 1000,
    b"sub/64k": os.urandom(64 * 1024),
    b"sub/64k+1": os.urandom(64 * 1024 + 1),
    b"big": os.urandom((3 << 20) + 5),
    b"whole MiBs": os.urandom(2 << 20),
    "zażółć gęślą jaźń.txt".encode(): b"utf-8",
    b"latin-1 \xe9t\xe9 \xff": b"no utf-8",
    b'quote"back\\slash\nnewline%41+?#;': b"awkward",
    b"..almost": b"a dot file",
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as gateway:
        root = os.fsencode(gateway.folder)
        for path, content in FILES.items():
            full = os.path.join(root, path)  # noqa: PTH118 - names of any bytes
            os.makedirs(os.path.dirname(full), exist_ok=True)  # noqa: PTH103, PTH120 - as above
            with open(full, "wb") as file:  # noqa: PTH123 - as above
                file.write(content)
        gateway.server.rescan()
        yield gateway


@pytest.mark.parametrize("spec", [SEALED, PLAIN, DOCUMENTED], ids=["made key", "plain", "given key"])
def test_every_file_arrives_as_it_is(served: Served, spec: dict[str, Any]) -> None:
    client = served.client(spec)
    entries = client.page().entries
    assert len(entries) == len(FILES)
    for entry in entries:
        form = client.form(entry)
        path = b64decode(form["path"])
        pulled = client.content(entry.id)
        assert pulled.plain == FILES[path]
        assert int(pulled.response.headers["content-length"]) == entry.size == len(pulled.sealed)
        assert pulled.response.headers["etag"] == entry.etag
        assert (pulled.iv is None) == (client.kit is None)
        assert entry.size == (len(FILES[path]) if client.kit is None else sealed_size(len(FILES[path])))


def test_form_carries_what_a_file_needs_to_come_back(served: Served) -> None:
    file = served.folder / "sub" / "deep" / "er" / "file.txt"
    file.chmod(0o640)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    served.server.rescan()
    for client in (served.client(), served.client(PLAIN)):
        form = next(form for form in map(client.form, client.page().entries) if form["fileName"].endswith("file.txt"))
        assert form == {
            "backUrl": "",
            "fileOverwrite": False,
            "tags": [],
            "password": "",
            "public": False,
            "fileName": "sub/deep/er/file.txt",
            "stripInvalidCharacters": False,
            "path": "c3ViL2RlZXAvZXIvZmlsZS50eHQ=",
            "mtime_ns": "1234567890123456789",
            "mode": 0o640,
            "size": 5000,
            "sha256": sha256(b"hello" * 1000).hexdigest(),
        }


def test_ids_follow_the_old_formula_and_plain_ones_are_hashes(served: Served) -> None:
    plain = served.client(PLAIN).ids()
    assert plain == {path: sha256(path).hexdigest() for path in FILES}
    sealed = served.client(DOCUMENTED)
    token = served.server.service.book.find(sealed.token)
    assert token is not None
    ids = sealed.ids()
    name = "zażółć gęślą jaźń.txt"
    assert ids[name.encode()] == element_id(token.stored_salt, name.encode(), "sha512")
    assert len(set(ids.values())) == len(FILES)
    assert sealed.ids() == ids, "ids are stable for a token"
    assert not set(served.client().ids().values()) & set(ids.values()), "and belong to it"


def test_ids_of_one_token_are_unknown_to_another(served: Served) -> None:
    mine, yours = served.client(), served.client()
    element = mine.ids()[b"one"]
    yours.ids()
    assert yours.get(f"/secure-copy/file/{element}/content").status_code == 404
    assert yours.get(f"/secure-copy/file/{element}/submitdata").status_code == 404


def test_openssl_alone_opens_a_content(served: Served, tmp_path: Path) -> None:
    client = served.client()
    pulled = client.content(client.ids()[b"big"])
    assert client.kit is not None
    assert pulled.iv is not None
    iv = bytes.fromhex(pulled.iv)
    (tmp_path / "sealed").write_bytes(pulled.sealed)
    key = client.kit.key(iv).hex() + 32 * "0"
    command = ["openssl", "enc", "-d", "-aes-256-cbc", "-K", key, "-iv", pulled.iv, "-in", "sealed", "-out", "plain"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "plain").read_bytes() == FILES[b"big"]


def test_no_name_leaves_with_an_encrypted_token(served: Served) -> None:
    client = served.client()
    for path, element in client.ids().items():
        for route in ("content", "submitdata"):
            answer = client.get(f"/secure-copy/file/{element}/{route}")
            assert path not in repr(dict(answer.headers)).encode()
            assert "content-disposition" not in answer.headers
    listing = client.get("/secure-copy/file/list").content
    assert not [path for path in FILES if len(path) > 6 and path in listing]


def test_same_version_is_the_same_bytes_and_another_one_is_not(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"sixteen"]
    first, again = client.content(element), client.content(element)
    assert (first.iv, first.sealed) == (again.iv, again.sealed)
    other = served.client()
    assert other.content(other.ids()[b"sixteen"]).sealed != first.sealed
    os.utime(served.folder / "sixteen")
    served.server.rescan()
    assert client.content(element).sealed == first.sealed, "another time is no other content"
    (served.folder / "sixteen").write_bytes(b"y" * 16)
    served.server.rescan()
    after = client.content(element)
    assert after.plain == b"y" * 16
    assert after.iv != first.iv
    assert after.response.headers["etag"] != first.response.headers["etag"]


def test_head_answers_as_get_does_without_a_body(served: Served) -> None:
    client = served.client()
    for route in (f"{client.ids()[b'big']}/content", "list", f"{client.ids()[b'one']}/submitdata"):
        got = client.get(f"/secure-copy/file/{route}")
        head = client.session.head(f"{client.url}/secure-copy/file/{route}", timeout=20)
        assert head.status_code == 200
        assert head.content == b""
        assert {**got.headers, "date": ""} == {**head.headers, "date": ""}


def test_submitdata_is_the_list_entry(served: Served) -> None:
    client = served.client()
    line = client.get("/secure-copy/file/list").text.splitlines()[-1]
    element = json.loads(line)["id"]
    whole = client.get(f"/secure-copy/file/{element}/submitdata")
    assert whole.json() == {"status": "OK", "http_code": 200, "object": json.loads(line)}
    raw = client.get(f"/secure-copy/file/{element}/submitdata?raw=true")
    assert raw.json() == json.loads(line)
    unknown = client.get(f"/secure-copy/file/{'0' * 128}/submitdata")
    assert (unknown.status_code, unknown.json()["object"]) == (404, None)
    assert client.get(f"/secure-copy/file/{'0' * 128}/submitdata?raw=true").json() == {}


def test_url_templates_lead_to_the_content_whichever_way_they_are_filled_in(served: Served) -> None:
    client = served.client()
    header = json.loads(client.get("/secure-copy/file/list").text.partition("\n\n")[0])
    element = client.ids()[b"one"]
    for placeholder in ("%file_id%", "%file_id"):
        url = header["fetchUrlTemplate"].replace(placeholder, element).replace("%token%", client.token)
        answer = client.session.get(url, headers={"token": None}, timeout=20)
        assert answer.headers[IV_HEADER]
        url = header["metadataUrlTemplate"].replace(placeholder, element).replace("%token%", client.token)
        assert client.session.get(url, headers={"token": None}, timeout=20).json()["object"]["id"] == element


def test_our_own_client_reads_it(served: Served) -> None:
    token, _ = served.server.create_token(SEALED)
    with SecureCopyClient(served.server.url, token, silence_s=20, user_agent="test") as client:
        page = client.list(None, 256)
        assert len(page.entries) == len(FILES)
        assert page.rejected == ()
        assert page.closed == max(entry.date for entry in page.entries)
        assert client.submitdata(page.entries[0].id) == page.entries[0]


@pytest.mark.parametrize("header", ["token", "x-auth-token"])
def test_token_comes_in_query_or_header(served: Served, header: str) -> None:
    client = served.client()
    url = f"{client.url}/secure-copy/file/list"
    ask = {"token": None, header: client.token}
    assert client.session.get(url, headers=ask, timeout=20).status_code == 200
    bad = client.session.get(f"{url}?_token=bad", headers=ask, timeout=20)
    assert bad.status_code == 403, "the query beats the header"
    assert client.session.get(f"{url}?_token={client.token}", headers={"token": None}, timeout=20).status_code == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=", "limit"),
        ("limit=abc", "limit"),
        ("limit=-1", "limit"),
        ("limit=8192", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit[]=3", "limit"),
        ("since=garbage", "since"),
        ("since=1795413941", "since"),
        ("since=@1.5", "since"),
        ("since[]=0", "since"),
        ("since=9999-99-99 99:99:99", "since"),
        ("since=@9999999999999999999", "since"),
    ],
)
def test_bad_parameters_are_a_400_in_json(served: Served, query: str, field: str) -> None:
    answer = served.client().get(f"/secure-copy/file/list?{query}")
    assert answer.status_code == 400
    assert answer.json()["status"] == "Validation error"
    assert list(answer.json()["fields"]) == [field]


@pytest.mark.parametrize(("limit", "count"), [("3abc", 3), ("2.9", 2), ("+4", 4), ("8191", len(FILES))])
def test_limit_is_cast_as_php_does_but_seconds_stay_whole(served: Served, limit: str, count: int) -> None:
    page = served.client().page(limit=limit)
    dates = [entry.date for entry in page.entries]
    whole = sum(date <= sorted(e.date for e in served.client().page().entries)[count - 1] for date in dates)
    assert len(dates) == whole >= count


def test_since_is_a_wall_clock_in_utc_or_iso(served: Served) -> None:
    client = served.client()
    date = max(entry.date for entry in client.page().entries)
    before, at = "%Y-%m-%d %H:%M:%S", None
    from datetime import UTC, datetime, timedelta, timezone

    moment = datetime.fromtimestamp(date, UTC)
    last = [entry.id for entry in client.page().entries if entry.date == date]
    for text in (
        moment.strftime(before),
        moment.isoformat(),
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        moment.astimezone(timezone(timedelta(hours=2))).isoformat(),
        moment.strftime(before) + ".999",
        f"@{date}",
    ):
        assert client.page(since=text).entries == (), text
    for text in ((moment - timedelta(seconds=1)).strftime(before), f"@{date - 1}"):
        assert [entry.id for entry in client.page(since=text).entries] == last
    for text in ("", "0"):
        assert len(client.page(since=text).entries) == len(FILES)
    assert at is None


def test_remaining_counts_from_since_inclusive(served: Served) -> None:
    client = served.client()
    dates = [entry.date for entry in client.page().entries]
    assert client.page(limit=1).remaining == len(FILES)
    for since in sorted(set(dates)):
        assert client.page(since=f"@{since}").remaining == sum(date >= since for date in dates)


def test_other_types_are_empty_lists(served: Served) -> None:
    answer = served.client().get("/secure-copy/nonsense/list")
    assert answer.status_code == 200
    assert answer.text.endswith('"remainingSince":0}\n\n')


def test_no_listing_before_the_first_scan_is_through(tmp_path: Path) -> None:
    with Served(tmp_path) as gateway:
        client = gateway.client()
        gateway.server.service.app._is_ready = False
        state = gateway.server.service.state
        with state.write() as at:
            at.exec_driver_sql("UPDATE gateway_source SET is_ready = 0")
        answer = client.get("/secure-copy/file/list")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_errors_are_json_with_the_right_status(served: Served) -> None:
    client = served.client()
    cases = {
        "/secure-copy/file/list": (405, "POST"),
        f"/secure-copy/file/{'0' * 128}/content": (404, "GET"),
        "/secure-copy/file/abc/content": (404, "GET"),
        "/nothing/here": (404, "GET"),
        "/auth/token/generate": (405, "GET"),
    }
    for path, (status, method) in cases.items():
        answer = client.session.request(method, client.url + path, timeout=20)
        assert answer.status_code == status, path
        assert answer.json()["http_code"] == status
    answer = client.session.post(f"{client.url}/secure-copy/file/{'0' * 128}/content", timeout=20)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_gone_file_is_gone_before_the_next_scan(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"one"]
    (served.folder / "one").unlink()
    assert client.get(f"/secure-copy/file/{element}/content").status_code == 404
    assert client.get(f"/secure-copy/file/{element}/submitdata").status_code == 404
    served.server.rescan()
    assert b"one" not in client.ids()
    (served.folder / "one").write_bytes(b"back again")
    served.server.rescan()
    assert client.ids()[b"one"] == element, "the same path has the same id"
    assert client.content(element).plain == b"back again"


def test_nothing_is_gone_while_the_folder_is_not_mounted(served: Served) -> None:
    client = served.client()
    element = client.ids()[b"one"]
    away = served.folder.rename(served.folder.with_name("away"))
    for in_its_place in ("nothing", "an empty mount point"):
        answer = client.get(f"/secure-copy/file/{element}/content")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10"), in_its_place
        assert client.get(f"/secure-copy/file/{element}/submitdata").status_code == 200, in_its_place
        served.folder.mkdir(exist_ok=True)
    served.folder.rmdir()
    away.rename(served.folder)
    assert client.content(element).plain == FILES[b"one"]
    (served.folder / "one").unlink()
    assert client.get(f"/secure-copy/file/{element}/submitdata").status_code == 404, "the folder is back, it is gone"


def test_token_is_made_over_http_as_documented(served: Served) -> None:
    admin = served.client(ADMIN)
    answer = admin.session.post(f"{admin.url}/auth/token/generate", json=DOCUMENTED, timeout=20)
    assert answer.status_code == 201
    body = answer.json()
    token = body.pop("token")
    assert body == {
        "status": True,
        "error_code": None,
        "http_code": 201,
        "errors": [],
        "context": [],
        "message": "Token created",
    }
    assert token["id"] == DOCUMENTED["id"]
    assert (token["active"], token["expired"], token["idIsCensored"]) == (True, False, False)
    assert token["expires"] == "2130-05-01 01:06:01"
    assert token["data"]["maxAllowedFileSize"] == 0
    assert token["data"]["secureCopyDigestRounds"] == 6000
    secrets = (DOCUMENTED["data"]["secureCopyEncryptionKey"], DOCUMENTED["data"]["secureCopyDigestSalt"])  # type: ignore[index]
    assert not [secret for secret in secrets if secret in answer.text]
    again = admin.session.post(f"{admin.url}/auth/token/generate", json=DOCUMENTED, timeout=20)
    assert (again.status_code, list(again.json()["fields"])) == (400, ["id"])


def test_made_key_is_kept_in_a_kit_and_never_sent(served: Served) -> None:
    admin = served.client(ADMIN)
    answer = admin.session.post(f"{admin.url}/auth/token/generate", json=SEALED, timeout=20)
    from pathlib import Path

    path = Path(answer.json()["kit"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    kit = json.loads(path.read_text())
    assert kit["data"]["secureCopyEncryptionKey"] not in answer.text
    assert len(bytes.fromhex(kit["data"]["secureCopyEncryptionKey"])) == 32
    assert kit["id"] == answer.json()["token"]["id"]
    data = kit["data"]
    admin.session.headers["token"] = kit["id"]
    admin.kit = Kit(
        data["secureCopyEncryptionKey"],
        digest=data["secureCopyDigestMethod"],
        rounds=data["secureCopyDigestRounds"],
    )
    assert admin.content(admin.ids()[b"one"]).plain == b"1"


def test_only_an_administrator_makes_tokens(served: Served) -> None:
    client = served.client()
    answer = client.session.post(f"{client.url}/auth/token/generate", json=SEALED, timeout=20)
    assert answer.status_code == 403
    upload = served.client({**STREAM, "roles": ["upload.all"], "data": {}})
    for route in ("list", f"{'0' * 64}/content", f"{'0' * 64}/submitdata"):
        answer = upload.get(f"/secure-copy/file/{route}")
        assert (answer.status_code, answer.json()["error_code"]) == (403, 403)


def test_many_pages_at_once_are_served(served: Served) -> None:
    from concurrent.futures import ThreadPoolExecutor

    clients = [served.client() for _ in range(2)]

    def ask(number: int) -> int:
        return clients[number % 2].get("/secure-copy/file/list").status_code

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(ask, range(64))) == {200}
