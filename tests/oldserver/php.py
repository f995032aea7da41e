"""What PHP, Symfony and nginx do with a request before and after the server's own code: casts, dates, JSON, pages."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - walls have no zone
INT_MAX = (1 << 63) - 1

REASONS = {
    200: "OK",
    201: "Created",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    410: "Gone",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

_PAGE = """<!DOCTYPE html>
<html>
    <head>
        <meta charset="UTF-8" />
        <title>An Error Occurred: {reason}</title>
        <style>
            body {{ background-color: #fff; color: #222; font: 16px/1.5 -apple-system, BlinkMacSystemFont, "Segoe UI", \
Roboto, "Helvetica Neue", Arial, sans-serif; margin: 0; }}
            .container {{ margin: 30px; max-width: 600px; }}
            h1 {{ color: #dc3545; font-size: 24px; }}
            h2 {{ font-size: 18px; }}
        </style>
    </head>
    <body>
        <div class="container">
            <h1>Oops! An Error Occurred</h1>
            <h2>The server returned a "{status} {reason}".</h2>

            <p>
                Something is broken. Please let us know what you were doing when this error occurred.
                We will fix it as soon as possible. Sorry for any inconvenience caused.
            </p>
        </div>
    </body>
</html>
"""

_NUMBER = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)")
_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?)?"
    r" ?(?:Z|UTC|[+-]\d\d:?\d\d)?",
)
_STAMP = re.compile(r"@(-?\d+)")


def error_page(status: int) -> bytes:
    """Return Symfony's error page as production shows it: 918 bytes for a 500."""
    return _PAGE.format(status=status, reason=REASONS.get(status, "Whatever")).encode()


def json_compact(value: Any) -> bytes:
    """Return JSON as json_encode writes it: ASCII, with slashes escaped."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/").encode()


def json_pretty(value: Any) -> bytes:
    return json.dumps(value, indent=4).replace("/", "\\/").encode()


def int_cast(text: str) -> int:
    """Return what `(int) $text` gives: the number in front, 0 without one, saturated."""
    found = _NUMBER.match(text)
    if found is None:
        return 0
    try:
        return min(max(int(found[1]), -INT_MAX - 1), INT_MAX)
    except ValueError:
        return int(min(max(float(found[1]), -INT_MAX), INT_MAX))


def parse_wall(text: str, now: int, zone: str) -> int | None:
    """Return the wall clock that `new DateTime($text)` shows, in seconds as if it were UTC; None where it throws.

    An offset in the text is not converted: the server formats the date as it stands, which is its bug.
    """
    if found := _STAMP.fullmatch(text):
        return int(found[1])
    days = {"now": 0, "today": 0, "yesterday": -1, "tomorrow": 1}.get(text.lower())
    if days is not None:
        wall = wall_of(now, zone)
        return wall if text.lower() == "now" else (wall // 86_400 + days) * 86_400
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
    try:
        moment = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - a wall has no zone
    except ValueError:
        return None
    return int((moment - EPOCH).total_seconds())


def wall_of(moment: int, zone: str) -> int:
    """Return what the wall shows at a moment, in seconds as if it were UTC."""
    local = datetime.fromtimestamp(moment, _zone(zone)).replace(tzinfo=None)
    return int((local - EPOCH).total_seconds())


def moment_of(wall: int, zone: str) -> int:
    """Return the moment at which the wall shows this; in a repeated hour the first, in a skipped one the one after."""
    return int((EPOCH + timedelta(seconds=wall)).replace(tzinfo=_zone(zone)).timestamp())


def _zone(name: str) -> ZoneInfo | timezone:
    return timezone.utc if name == "UTC" else ZoneInfo(name)  # noqa: UP017 - a plain zone is far faster than a database
