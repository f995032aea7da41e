"""A world with sources that `sc2` seals: what a gateway would list and send, recorded as a collector would."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kropot.sc2.form import Form, Kind
from kropot.sc2.kit import OwnerKit
from kropot.sc2.seal import Sealing, seal_list_form
from kropot.securecopy.wire import canonical_json
from ledger.events import RemoteChanged, RemoteObserved, StreamKey
from tests.kropot.replay_world import EMPTY, World
from tests.kropot.sc2_world import SOURCE, VAULT, drawn, made_vault

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.sc2.vault import Vault

OTHER_VAULT = made_vault("other")
MTIME_NS = 1_600_000_000_123_456_789


class SealedWorld(World):
    """A world whose `seal` stores elements of sc2."""

    def seal(
        self,
        source: bytes,
        path: bytes,
        data: bytes,
        *,
        vault: Vault = VAULT,
        gateway: bytes = SOURCE,
        sealed_us: int | None = None,
        **facts: Any,
    ) -> StreamKey:
        """See an element, or a new version of it, and store its object."""
        form = Form(
            **{
                "path": path,
                "kind": Kind.FILE,
                "size": len(data),
                "sealed_us": self.now_us if sealed_us is None else sealed_us,
                "mode": 0o640,
                "mtime_ns": MTIME_NS,
                "sha256": hashlib.sha256(data).digest(),
                **facts,
            }
        )
        version = vault.version(self.random.randbytes(16))
        sealing = Sealing(vault, form, source=gateway, version=version)
        key = self._list(source, vault, form, gateway, version)
        self._store(key, sealing.whole(data), None)
        return key

    def list_again(self, key: StreamKey, path: bytes, content: bytes, version: bytes, **facts: Any) -> None:
        """List a newer form of the same version: the copy carries over to the new revision."""
        form = Form(path=path, kind=Kind.FILE, size=len(content), sealed_us=self.now_us, **facts)
        text = seal_list_form(VAULT, form, source=SOURCE, version=version)
        known = self.elements[key]
        assert known.copy is not None
        revision = known.revision + 1
        changed = replace(
            known,
            form=canonical_json({"encrypted": text}),
            revision=revision,
            copy=replace(known.copy, revision=revision),
        )
        self._append(key, RemoteChanged(element=changed))

    def _list(self, source: bytes, vault: Vault, form: Form, gateway: bytes, version: bytes) -> StreamKey:
        key = StreamKey(source=source, kind="file", id=vault.element(form.path).hex())
        text = canonical_json({"encrypted": seal_list_form(vault, form, source=gateway, version=version)})
        known = self.elements.get(key)
        if known is None:
            self._append(key, RemoteObserved(element=replace(EMPTY, date=1_790_000_000, form=text)))
        else:
            self._append(key, RemoteChanged(element=replace(known, form=text, revision=known.revision + 1)))
        return key


def kit_file(folder: Path, vault: Vault = VAULT, name: str = "vault.json") -> str:
    """Write the kit of a vault, and return its path."""
    path = folder / name
    path.write_bytes(OwnerKit(vault=vault).encode())
    path.chmod(0o600)
    return str(path)


__all__ = ["MTIME_NS", "OTHER_VAULT", "SealedWorld", "drawn", "kit_file"]
