"""Counts a gateway's answers, and reports them with what its scans found. Labels hold no tokens and no file names."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from kropot.metrics.text import MetricSample, metrics_in_text

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from typing import Any

    from starlette.types import ASGIApp, Receive, Scope, Send

    from kropot.gateway.standing import ServiceStanding


class GatewayMetrics:
    """Wraps an application. The event loop's thread counts, and any thread can read the counts."""

    def __init__(self, app: ASGIApp, standing: ServiceStanding, version: str) -> None:
        """Start with all counts at zero."""
        self._app = app
        self._standing = standing
        self._version = version
        self._lock = threading.Lock()
        self._answers: dict[int, int] = {}
        self._sent = 0
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, and count the answer."""

        async def counted(message: MutableMapping[str, Any]) -> None:
            body = message.get("body")
            if body is not None:
                self._sent += len(body)
            elif message["type"] == "http.response.start":
                with self._lock:
                    self._answers[message["status"]] = self._answers.get(message["status"], 0) + 1
            await send(message)

        self._in_progress += 1
        try:
            await self._app(scope, receive, counted)
        finally:
            self._in_progress -= 1

    def text(self) -> str:
        """Return all metrics of the gateway."""
        return metrics_in_text(self._samples())

    def _samples(self) -> Iterator[MetricSample]:
        yield MetricSample(name="kropot_build_info", value=1, labels={"version": self._version})
        with self._lock:
            answers = sorted(self._answers.items())
        for code, count in answers:
            yield MetricSample(name="kropot_gateway_requests_total", value=count, labels={"code": str(code)})
        yield MetricSample(name="kropot_gateway_sent_bytes_total", value=self._sent)
        yield MetricSample(name="kropot_gateway_requests_in_progress", value=self._in_progress)
        standing = self._standing
        yield MetricSample(name="kropot_gateway_scan_failing", value=standing.unscanned_since is not None)
        if standing.scanned_s is not None:
            yield MetricSample(name="kropot_gateway_scan_timestamp_seconds", value=standing.scanned_s)
        if standing.files is not None:
            yield MetricSample(name="kropot_gateway_files", value=standing.files)
        unserved = standing.unserved
        if unserved is not None:
            for kind in unserved.__struct_fields__:
                yield MetricSample(name="kropot_gateway_unserved", value=getattr(unserved, kind), labels={"kind": kind})
