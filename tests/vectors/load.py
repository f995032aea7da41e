"""Reads the vectors: exchanges with the real server as small objects, contents and forms as dictionaries."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its answer; `body` is None where only its size and digest were kept."""

    name: str
    note: str
    method: str
    path: str
    request_headers: dict[str, str]
    request_body: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | None

    @property
    def content_type(self) -> str | None:
        return next((value for name, value in self.headers if name.lower() == "content-type"), None)


@cache
def exchanges(group: str) -> tuple[Exchange, ...]:
    return tuple(map(_exchange, json.loads((HERE / "exchanges" / f"{group}.json").read_text())))


def exchange(group: str, name: str) -> Exchange:
    return next(found for found in exchanges(group) if found.name == name)


@cache
def contents() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads((HERE / "content" / "vectors.json").read_text()))


def content_bytes(name: str) -> tuple[bytes, bytes]:
    """Return the plain and the sealed bytes of a content vector."""
    folder = HERE / "content"
    return (folder / f"{name}.plain.bin").read_bytes(), (folder / f"{name}.cipher.bin").read_bytes()


@cache
def forms() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads((HERE / "forms.json").read_text()))


def _exchange(raw: dict[str, Any]) -> Exchange:
    request, body = raw.get("request", {}), raw["body"]
    if "text" in body:
        found: bytes | None = body["text"].encode("ascii")
    elif "base64" in body:
        found = b64decode(body["base64"])
    elif "tail_latin1" in body:
        found = body["tail_latin1"].encode("latin-1")
    else:
        found = None
    return Exchange(
        name=raw["name"],
        note=raw["note"],
        method=request.get("method", "GET"),
        path=request.get("path", ""),
        request_headers=request.get("headers", {}),
        request_body=request.get("body", ""),
        status=raw["status"],
        headers=tuple((name, value) for name, value in raw["headers"]),
        body=found,
    )
