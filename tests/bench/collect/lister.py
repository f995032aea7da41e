"""The list and submitdata routes beside nginx, which serves the contents: run with a data set's name and a port."""

from __future__ import annotations

import sys
from bisect import bisect_right
from calendar import timegm
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import strptime
from urllib.parse import parse_qs, urlsplit

from kropot.securecopy.wire import encode_entry, encode_page
from tests.bench.collect.dataset import SETS

DEFAULT_LIMIT = 256


def serve(name: str, port: int) -> None:
    """Answer list pages for ever."""
    entries = list(next(one for one in SETS if one.name == name).listed())
    dates = [entry.date for entry in entries]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            since = query.get("since", [""])[0]
            first = bisect_right(dates, timegm(strptime(since, "%Y-%m-%d %H:%M:%S"))) if since else 0
            page = entries[first : first + int(query.get("limit", [DEFAULT_LIMIT])[0])]
            url = "/secure-copy/file/%file_id%/submitdata?_token=%token%"
            body = encode_page(map(encode_entry, page), remaining=len(entries) - first, metadata_url=url, fetch_url=url)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class calls it so
            """Say nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
