"""Stream files to a browser, as attachments that it does not run."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response

from kropot.errors import KropotError
from kropot.logs import log
from kropot.page.answers import COMMON, SANDBOX
from kropot.serving.pools import in_pool
from kropot.serving.sending import cut_off, noticing_hang_up
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from starlette.types import Receive, Scope, Send


class StreamedFile(Response):
    """A streamed file. On an error, the connection is cut, so that no browser takes the file for complete."""

    def __init__(self, name: str, first: bytes, rest: Iterator[bytes], pool: Executor) -> None:
        """Send a file under this name, as an attachment that a browser does not run."""
        super().__init__(headers=COMMON)
        plain = "".join(each if each.isascii() and (each.isalnum() or each in "-_. ()") else "_" for each in name)
        kind = mimetypes.guess_type(name)[0] or ""
        # A browser gets every type that it could run or draw as plain bytes.
        media = kind if kind in {"text/plain", "application/zip"} else "application/octet-stream"
        del self.headers["content-length"]
        self.headers["content-type"] = media
        self.headers["content-disposition"] = (
            f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
        )
        self.headers["content-security-policy"] = SANDBOX
        self._first, self._rest, self._pool_ = first, rest, pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, until it ends or the client hangs up."""
        try:
            async with noticing_hang_up(receive) as gone:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                data: bytes | None = self._first
                while data is not None and not gone.done():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    data = await in_pool(self._pool_, next, self._rest, None)
                await send({"type": "http.response.body", "body": b""})
        except (KropotError, OSError, LedgerError) as error:
            log.warning("download_broken", reason=type(error).__name__)
            cut_off(scope)
        finally:
            close = getattr(self._rest, "close", None)
            if close is not None:
                await in_pool(self._pool_, close)
