"""The bucket that some peers back up to: SeaweedFS on loopback, started once, with a prefix for each life of a peer."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def is_here() -> bool:
    """Whether SeaweedFS and what this program needs for a bucket are installed."""
    return Path(sys.executable).with_name("weed").exists() and find_spec("obstore") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket at `host`:`port`, with a pair of keys that may do everything."""

    host: str
    port: int
    name: str
    key_id: str
    secret: str

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def env(self) -> Mapping[str, str]:
        """What programs read that know the usual variables."""
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
        }


@contextmanager
def running(folder: Path) -> Iterator[Bucket]:
    """Run SeaweedFS below `folder`."""
    from tests.remote_stores import BUCKET, KEY_ID, SECRET, BucketServer, servers

    with servers(folder) as started:
        server = started.get("seaweedfs")
        if not isinstance(server, BucketServer):
            raise TypeError(type(server))
        yield Bucket(host="127.0.0.1", port=server.port, name=BUCKET, key_id=KEY_ID, secret=SECRET)
