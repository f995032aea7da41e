"""What `kropotcli recipe` prints for an object of sc2: how to open it without this program. Pure.

It shows no key. Its program reads the keys from the kit when it runs, and needs only Python with `cryptography`.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kropot.sc2.layout import ObjectHeader

_PAGE = """\
This object is sealed by sc2. The kit of this vault opens it, and nothing else does: {vault}.
Numbers are big-endian. HMAC and HKDF use SHA-256. A kit with a passphrase is opened as the end says.

  0   6  the letters kr-sc2
  6   1  suite: 1
  7   1  compression: 0, none
  8  16  vault       {vault}
 24  16  source      {source}
 40  32  element id  {element}
 72   8  key id      {key_id}
 80  32  version     {version}
112  32  commitment to the key
144   2  length of the sealed form F; then F; then the chunks to the end of the object

1. Take the master of the kit whose HMAC(master, "kropot sc2 key id" || vault) begins with the key id.
2. Derive three keys of 32 bytes: HKDF(master, salt = bytes 0 to 111 of the object, info = "kropot sc2 " || use), where
   use is commitment, sealing or nonces. The first must equal bytes 112 to 143: else the header was altered.
3. F and every chunk are nonce (12 bytes), ciphertext, tag (16), by AES-256-GCM with the key for sealing.
   Their associated data is: label (1 byte: 1 for a chunk, 2 for F), index (8 bytes), last (1 byte: 1 or 0),
   SHA-256(bytes 0 to 143). F has index 0 and is the last. Chunks have 65,564 bytes, but the last may be shorter.
   A chunk that does not open, an object that ends before its last chunk, or anything behind that one: do not use it.
4. F opens to: length (2 bytes), the form (a msgpack map of so many bytes), zeros. The fields of a form: path, kind
   (file, folder, symlink), size, mode, mtime_ns, sealed_us (microseconds since 1970), sha256, target (of a symlink),
   uid, gid, user, group, link_group (names of one file share it), xattrs. Check that the element id is
   HMAC(id_key of the kit, "element" || path).
5. The chunks open to `content` bytes (where that field is missing: `size`); zeros may follow. The first `attributes` of
   them, if the form has that field, are a msgpack map of xattrs and holes. The rest is the file without its `holes`:
   pairs of start and length, where the file has zeros.

A kit with a passphrase: Argon2id(passphrase in UTF-8, NFC) with the numbers in `argon2id` gives 64 bytes. The first 32
are a key, the others are `check`. `wrapped` is nonce (12), ciphertext, tag by AES-256-GCM with that key. Its associated
data is the kit's JSON without `check` and `wrapped` (keys sorted, no spaces). It opens to the fields of the kit.

The program below does the same, and needs Python with the package cryptography. It shows the bytes of the form on
standard error, and leaves attributes, zeros and holes to you. It asks for the passphrase of a kit that has one.
"""

PROGRAM: Final = """\
import base64, getpass, hashlib, hmac, json, sys, unicodedata
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
kit, data = json.load(open(sys.argv[1])), open(sys.argv[2], "rb").read()
if "wrapped" in kit:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    told, sealed = kit["argon2id"], base64.b64decode(kit["wrapped"])
    stretched = Argon2id(salt=bytes.fromhex(told["salt"]), length=64, iterations=told["passes"],
                         lanes=told["lanes"], memory_cost=told["memory_kib"])
    key = stretched.derive(unicodedata.normalize("NFC", getpass.getpass("passphrase: ")).encode())
    assert key[32:].hex() == kit["check"], "another passphrase"
    public = {name: value for name, value in kit.items() if name not in ("check", "wrapped")}
    public = json.dumps(public, sort_keys=True, separators=(",", ":")).encode()
    kit = json.loads(AESGCM(key[:32]).decrypt(sealed[:12], sealed[12:], public))
mac = lambda key, text: hmac.digest(key, text, "sha256")
head, vault = data[:144], data[8:24]
assert head[:8] == b"kr-sc2\\x01\\x00" and vault.hex() == kit["vault"], "another format or vault"
masters = {mac(key, b"kropot sc2 key id" + vault)[:8]: key for key in map(bytes.fromhex, kit["masters"])}
base = mac(head[:112], masters[head[72:80]])
derive = lambda use: mac(base, b"kropot sc2 " + use + b"\\x01")
assert derive(b"commitment") == head[112:], "the header was altered"
aead, digest = AESGCM(derive(b"sealing")), hashlib.sha256(head).digest()
def piece(label, index, last, sealed):
    place = bytes([label]) + index.to_bytes(8, "big") + bytes([last])
    return aead.decrypt(sealed[:12], sealed[12:], place + digest)
at = 146 + int.from_bytes(data[144:146], "big")
form = piece(2, 0, True, data[146:at])
print(form[2 : 2 + int.from_bytes(form[:2], "big")], file=sys.stderr)
for index, start in enumerate(range(at, max(at + 1, len(data)), 65564)):
    sys.stdout.buffer.write(piece(1, index, start + 65564 >= len(data), data[start : start + 65564]))
"""


def recipe(header: ObjectHeader) -> str:
    """Return the page for the object with this header: the format, with the object's ids."""
    return _PAGE.format(
        vault=header.vault.hex(),
        source=header.source.hex(),
        element=header.element_id,
        key_id=header.key_id.hex(),
        version=header.version.hex(),
    )


def steps(*, sealed: str, plain: str = "plain.bin") -> tuple[tuple[str, str], ...]:
    """Return (description, command line) pairs that open the file `sealed` with the kit named by `$KIT`."""
    return (
        ("write the program that opens it", f"cat > open.py <<'END'\n{PROGRAM}END"),
        (
            "open the content; the form, which holds the name, is shown",
            f'python3 open.py "$KIT" {shlex.quote(sealed)} > {shlex.quote(plain)}',
        ),
    )
