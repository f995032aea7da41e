"""Write the vectors of sc2: python tests/tools/sc2_vectors.py [FOLDER]. The same bytes come out every time."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from kropot.sc2.form import Form, Kind, fitted
from kropot.sc2.kit import CbcKey, OwnerKit
from kropot.sc2.passphrase import Stretch, lock
from kropot.sc2.seal import Sealing, seal_list_form
from kropot.sc2.vault import Vault
from kropot.securecopy.sealing import Kit

HERE = Path(__file__).resolve().parent.parent / "vectors" / "sc2"
PASSPHRASE = "bread and roses, too"
SOURCE = bytes(range(16))
SEALED_US = 1_795_996_800_000_000
MTIME_NS = 1_790_000_000_123_456_789


def drawn(name: str, size: int) -> bytes:
    """Return bytes that look random and follow from a name."""
    return hashlib.shake_128(name.encode()).digest(size)


def vault() -> Vault:
    """Return the vault of the vectors. It has two masters: both open, the second seals."""
    keys = (drawn(f"key {number}", 32) for number in range(4))
    return Vault(id=drawn("vault", 16), id_key=next(keys), etag_key=next(keys), masters=tuple(keys))


def kit() -> OwnerKit:
    """Return the kit of the vectors."""
    cbc = CbcKey(kit=Kit("a passphrase of the vectors", digest="sha256", rounds=4), stored_salt="c2FsdA==")
    return OwnerKit(vault=vault(), cbc=(cbc,))


def elements() -> dict[str, tuple[Form, bytes]]:
    """Return each vector's form and plain content by its name."""
    shared: dict[str, Any] = {"sealed_us": SEALED_US, "mtime_ns": MTIME_NS}
    owner: dict[str, Any] = {"uid": 1000, "gid": 100, "user": b"emma", "group": b"users"}
    found: dict[str, tuple[Form, bytes]] = {}
    for size in (0, 1, 65_535, 65_536, 65_537):
        plain = drawn(f"file {size}", size)
        form = Form(path=b"files/%d.bin" % size, kind=Kind.FILE, size=size, mode=0o644, **shared, **owner)
        found[f"file-{size}"] = form, plain
    plain = drawn("padded", 70_000)
    digest = hashlib.sha256(plain).digest()
    padded = Form(path=b"padded.bin", kind=Kind.FILE, size=70_000, padding=True, sha256=digest, mode=0o600, **shared)
    found["padded"] = padded, plain
    found["folder"] = Form(path="zażółć".encode(), kind=Kind.FOLDER, mode=0o755, padding=True, **shared, **owner), b""
    found["root"] = Form(path=b"", kind=Kind.FOLDER, mode=0o700, **shared), b""
    found["symlink"] = Form(path=b"link-\xff", kind=Kind.SYMLINK, target=b"../elsewhere", **shared), b""
    xattrs = ((b"security.capability", drawn("capability", 20)), (b"user.note", b"x" * 9000))
    linked = Form(path=b"linked", kind=Kind.FILE, size=3, link_group=drawn("group", 16), xattrs=xattrs, **shared)
    short, attributes = fitted(linked)
    found["attributes"] = short, attributes + b"abc"
    sparse = Form(path=b"sparse", kind=Kind.FILE, size=1 << 40, content=7, holes=((3, (1 << 40) - 7),), **shared)
    found["sparse"] = sparse, b"abcdefg"
    return found


def files() -> dict[str, bytes]:
    """Return the bytes of every file of the vectors by its name."""
    keys, told, made = vault(), [], {}
    for name, (form, plain) in elements().items():
        version = keys.version(drawn(f"nonce {name}", 16))
        key_id = keys.key_ids[0] if name == "file-1" else None
        sealing = Sealing(keys, form, source=SOURCE, version=version, key_id=key_id)
        made[f"{name}.sc2"] = sealing.whole(plain)
        told.append(
            {
                "name": name,
                "path": form.path.hex(),
                "element": sealing.header.element_id,
                "version": version.hex(),
                "etag": sealing.header.etag,
                "form": form.encode().hex(),
                "list_form": seal_list_form(keys, form, source=SOURCE, version=version, key_id=key_id),
                "plain_size": len(plain),
                "plain_sha256": hashlib.sha256(plain).hexdigest(),
                "object_size": sealing.length,
                "object_sha256": hashlib.sha256(made[f"{name}.sc2"]).hexdigest(),
            }
        )
    made["kit.json"] = kit().encode()
    locked = lock(
        kit(),
        PASSPHRASE,
        entropy=lambda size: drawn("entropy", size),
        stretch=lambda salt: Stretch(salt=salt, memory_kib=256, passes=2, lanes=2),
    )
    made["kit-locked.json"] = locked.encode()
    made["vectors.json"] = json.dumps({"passphrase": PASSPHRASE, "objects": told}, indent=1).encode() + b"\n"
    return made


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files().items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
