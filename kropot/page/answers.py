"""The page's answers: HTML under a policy that allows no foreign code, and the page's own three static files."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from kropot.page.rendering import render, static

STATIC: Final = ("page.css", "page.js", "icon.svg")

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
SANDBOX: Final = "default-src 'none'; sandbox; frame-ancestors 'none'"

COMMON: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}

FRAME: Final[dict[str, Any]] = {
    "place": "",
    "is_owner": False,
    "claimed": False,
    "nav": [],
    "screen": "",
    "at": None,
    "now": None,
}
"""The defaults for the values of the frame around a template's content."""


def page_of(name: str, status: int = 200, *, headers: dict[str, str] | None = None, **values: Any) -> Response:
    """Render a template, and return it as a response."""
    text = render(name, **(FRAME | values))
    return Response(text, status, COMMON | {"content-security-policy": POLICY} | (headers or {}), "text/html")


def static_of(name: str) -> Response | None:
    """Return one of the page's own files, None if there is no such file."""
    if name not in STATIC:
        return None
    media = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
    headers = COMMON | {"content-security-policy": SANDBOX, "cache-control": "no-cache"}
    return Response(static(name), 200, headers, media)
