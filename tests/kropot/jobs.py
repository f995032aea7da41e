"""Fetch jobs for tests of the engines: entries that are told apart by their stream's number."""

from __future__ import annotations

from kropot.collect.transfer.engine import FetchJob, content_path
from ledger.events import StreamKey
from ledger.replica import Entry


def fetch_job(
    number: int, id_: str, *, opaque: bool | None = True, size: int | None = None, etag: str | None = None
) -> FetchJob:
    """Return the job that fetches the element `id_`, whose stream has this number."""
    key = StreamKey(source=bytes(16), kind="file", id=id_)
    entry = Entry(key=key, stream=number, version=1, position=number, element=None)
    return FetchJob(entry=entry, stream=key, path=content_path(id_), opaque=opaque, size=size, etag=etag)
