"""Safe names: turn the name that a form claims into a path that stays inside a folder and is unique. Pure.

A claim is a file name, or a path in bytes. It comes from the owner of the source, so we do not trust it. A name that
the target's file system can hold stays as is. Any other name is escaped (`%2F`), shortened or numbered with a hash, and
the manifest keeps the true name.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from kropot.durable.target import NameRules

    class Claims(Protocol):
        """A set of fingerprints of claimed names."""

        def add(self, fingerprint: bytes) -> bool:
            """Add a fingerprint of 16 bytes; return whether it is new."""

        def __contains__(self, fingerprint: object) -> bool:
            """Return whether the fingerprint is in the set."""


COMPONENT_BYTES = 255
"""The longest name of one file or folder, in bytes, that common file systems accept."""

PATH_BYTES = 2_000
"""Paths with more bytes are shortened. With the target folder's path before them, they must stay below 4,096 bytes."""

DEPTH = 100
"""Paths with more components than this are shortened too."""

_RESERVED = re.compile(
    rb"(?i)(con|prn|aux|nul|(com|lpt)([0-9]|\xc2[\xb2\xb3\xb9])|conin\$|conout\$|clock\$)[ ]*(\..*)?", re.DOTALL
)
_WINDOWS_ILLEGAL = frozenset(b'<>:"|?*\\') | frozenset(range(32)) | {127}
_FINGERPRINT = 16
_MOST_FOLDERS = 10_000
"""For how many folders to keep the names in memory."""


def split_path(path: bytes) -> tuple[bytes, ...]:
    """Return the components of a claimed path. Empty components and `.` are dropped, and `..` is kept."""
    return tuple(part for part in path.split(b"/") if part not in {b"", b"."})


def safe_component(true: bytes, rules: NameRules) -> bytes:
    """Return a safe name for one file or folder: not empty, `.` or `..`, no separator or NUL, at most 255 bytes."""
    if _is_safe(true, rules):
        return true
    escaped = _escape(true, rules)
    return escaped if len(escaped) <= COMPONENT_BYTES else _shorten(escaped, true)


@lru_cache(maxsize=64)
def safe_path(components: tuple[bytes, ...], rules: NameRules) -> tuple[bytes, ...]:
    """Return at least one safe component for a claimed path. A path too long or too deep is `%long/<hash>/name`."""
    safe = tuple(safe_component(part, rules) for part in components) or (safe_component(b"", rules),)
    if sum(len(part) + 1 for part in safe) <= PATH_BYTES and len(safe) <= DEPTH:
        return safe
    return (b"%long", _hash(b"/".join(components)), safe[-1])


class NameGiver:
    """Gives each claimed path a unique name. The same claims in the same order get the same names.

    A file never gets the name of another file or of a folder. A folder never gets the name of a file.
    """

    def __init__(self, rules: NameRules, claims: Claims, reserved: tuple[bytes, ...] = ()) -> None:
        """Take the target's rules, an empty set of claims, and reserved names of the top folder."""
        self._rules = rules
        self._claims = claims
        self._folders: dict[tuple[tuple[bytes, ...], bytes], bytes] = {}
        for name in reserved:
            claims.add(self._fingerprint(b"f", (name,)))

    def is_of_another(self, components: tuple[bytes, ...], source: bytes) -> bool:
        """Return whether another source claimed exactly this path. If none did, `source` (16 bytes) claims it now."""
        true = b"/".join(components)
        anyone = hashlib.sha256(b"t" + true).digest()[:_FINGERPRINT]
        mine = hashlib.sha256(b"s" + source + true).digest()[:_FINGERPRINT]
        if self._claims.add(anyone):
            self._claims.add(mine)
            return False
        return mine not in self._claims

    def would_give(self, components: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the path that a claim would get if no other claim had it. This claims nothing."""
        return safe_path(components, self._rules)

    def would_give_folder(self, components: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the path that a folder would get if no file had it. The served folder itself is the top."""
        return safe_path(components, self._rules) if components else ()

    def give(self, components: tuple[bytes, ...], identity: bytes) -> tuple[bytes, ...]:
        """Return the path for a claim. If the name is taken, a hash of `identity`, which must be unique, numbers it."""
        safe = safe_path(components, self._rules)
        folder: tuple[bytes, ...] = ()
        for part in safe[:-1]:
            folder = (*folder, self._folder_name(folder, part))
        for name in _alternatives(safe[-1], identity):
            path = (*folder, name)
            if self._fingerprint(b"d", path) not in self._claims and self._claims.add(self._fingerprint(b"f", path)):
                return path
        raise AssertionError  # pragma: no cover (the alternatives never end)

    def give_folder(self, components: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the path for a folder that is itself claimed: the one that files in it get."""
        folder: tuple[bytes, ...] = ()
        for part in self.would_give_folder(components):
            folder = (*folder, self._folder_name(folder, part))
        return folder

    def _folder_name(self, parent: tuple[bytes, ...], part: bytes) -> bytes:
        """Return the folder's name, the same at every call. It is a numbered one if a file has the name."""
        known = self._folders.get((parent, part))
        if known is not None:
            return known
        for name in _alternatives(part, b"folder\x00" + part):
            path = (*parent, name)
            if self._fingerprint(b"f", path) not in self._claims:
                self._claims.add(self._fingerprint(b"d", path))
                if len(self._folders) >= _MOST_FOLDERS:
                    self._folders.clear()
                self._folders[parent, part] = name
                return name
        raise AssertionError  # pragma: no cover (the alternatives never end)

    def _fingerprint(self, what: bytes, path: tuple[bytes, ...]) -> bytes:
        joined = b"/".join(_folded(part, self._rules) for part in path)
        return hashlib.sha256(what + joined).digest()[:_FINGERPRINT]


def _is_safe(name: bytes, rules: NameRules) -> bool:
    if name in {b"", b".", b".."} or len(name) > COMPONENT_BYTES or b"/" in name or b"\x00" in name:
        return False
    if rules.portable and (not _WINDOWS_ILLEGAL.isdisjoint(name) or name[-1:] in b". " or _RESERVED.fullmatch(name)):
        return False
    return not (rules.utf8_only or rules.portable) or _is_text(name)


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _escape(name: bytes, rules: NameRules) -> bytes:
    """Return the name with each forbidden byte, and each `%`, written as `%XX`."""
    if name in {b"", b".", b".."}:
        return name.replace(b".", b"%2E") or b"%00"
    bad = {0x00, 0x2F, 0x25} | (set(_WINDOWS_ILLEGAL) if rules.portable else set())
    if (rules.utf8_only or rules.portable) and not _is_text(name):
        bad |= set(range(0x80, 0x100))
    escaped = b"".join(b"%%%02X" % byte if byte in bad else bytes((byte,)) for byte in name)
    if rules.portable and escaped[-1:] in {b".", b" "}:
        escaped = escaped[:-1] + b"%%%02X" % escaped[-1]
    if rules.portable and _RESERVED.fullmatch(escaped):
        escaped = b"%%%02X" % escaped[0] + escaped[1:]
    return escaped


def _shorten(name: bytes, true: bytes) -> bytes:
    """Return at most 255 bytes: the start, `~`, a hash of the true name, and a short extension such as `.txt`."""
    stem, dot, ending = name.rpartition(b".")
    if not dot or not ending.isalnum() or len(ending) > _FINGERPRINT:
        stem, dot, ending = name, b"", b""
    tail = b"~" + _hash(true) + dot + ending
    return _cut(stem, COMPONENT_BYTES - len(tail)) + tail


def _cut(name: bytes, length: int) -> bytes:
    """Return the first bytes of a name, without a partial character or escape at the end."""
    if len(name) <= length:
        return name
    while length and name[length] & 0xC0 == 0x80:  # noqa: PLR2004 (a continuation byte of UTF-8)
        length -= 1
    return re.sub(rb"%[0-9A-F]?$", b"", name[:length]).rstrip(b". ")


def _alternatives(name: bytes, identity: bytes) -> Iterator[bytes]:
    """Yield the name, and then endless variants of it, numbered with hashes of the identity."""
    yield name
    stem, dot, ending = name.rpartition(b".")
    if not stem or len(ending) > _FINGERPRINT:
        stem, dot, ending = name, b"", b""
    attempt = 0
    while True:
        number = hashlib.sha256(b"%d\x00%s" % (attempt, identity)).hexdigest()[:8].encode()
        tail = b"~" + number + dot + ending
        yield _cut(stem, COMPONENT_BYTES - len(tail)) + tail
        attempt += 1


def _folded(name: bytes, rules: NameRules) -> bytes:
    """Return the name as the file system compares it. Two names with the same result are one name there."""
    if not (rules.fold_case or rules.fold_unicode or rules.portable):
        return name
    text = name.decode(errors="surrogateescape")
    if rules.fold_unicode or rules.portable:
        text = unicodedata.normalize("NFKD", text)
    if rules.fold_case or rules.portable:
        text = unicodedata.normalize("NFKD", text.casefold().upper().casefold())
    return text.encode(errors="surrogateescape")


def _hash(true: bytes) -> bytes:
    return hashlib.sha256(true).hexdigest()[:16].encode()
