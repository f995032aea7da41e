"""A server's JSON answers, above all its failures, which have the same shape as those of the server of 2020."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


def answer(value: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(value), status_code=status, headers=headers, media_type="application/json")


def failure(sentence: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return an error in the old server's JSON shape."""
    return Response(failure_json(sentence, status), status, headers, media_type="application/json")


def refusal(sentence: str, status: int = 403) -> Response:
    """Return an error to a client that has shown no valid token. It keeps no connection."""
    return failure(sentence, status, {"connection": "close"})


def failure_json(sentence: str, status: int) -> bytes:
    """Return the body of an error, in the old server's shape."""
    return orjson.dumps({"status": sentence, "error_code": status, "http_code": status})
