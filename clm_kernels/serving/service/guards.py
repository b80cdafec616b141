"""What stands before every request: a bounded body, a token where one is set, counters; plain ASGI, so that nothing is read too much."""

from __future__ import annotations

import hmac
import json
import time
from contextlib import suppress
from typing import Any

from .metrics import Metrics

OPEN = ("/", "/healthz")  # without a token
TIMED = ("/classify", "/explain")


class TooLarge(Exception):
    """A body beyond the limit, told while it comes."""


class BoundedBody:
    """Answers 413 to a body of more than `most` bytes, by its length where that is said, else as soon as so much has come."""

    def __init__(self, app: Any, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        said = dict(scope["headers"]).get(b"content-length", b"0")
        came, over, begun = 0, not said.isdigit() or int(said) > self.most, False

        async def bounded() -> Any:
            nonlocal came, over
            message = await receive()
            came += len(message.get("body", b""))
            over = over or came > self.most
            if over:
                raise TooLarge
            return message

        async def sending(message: Any) -> None:
            nonlocal begun
            if not over:  # else a framework may answer with what it makes of the error
                begun = True
                await send(message)

        with suppress(TooLarge):
            if not over:
                await self.app(scope, bounded, sending)
        if over and not begun:
            await answer(send, 413, f"the body must be at most {self.most:,} bytes")


class Token:
    """Answers 401 to whoever does not send ``Authorization: Bearer TOKEN``; the page and ``/healthz`` are open."""

    def __init__(self, app: Any, token: str):
        self.app, self.expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                return await answer(send, 401, "the header Authorization must be Bearer and the service's token")
        await self.app(scope, receive, send)


class Counted:
    """Counts answers by path and status, and seconds of those that classify.

    Plain ASGI, as FastAPI's own form of it starts a task for each request, and hands every answer on through a queue.
    """

    def __init__(self, app: Any, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, path = time.perf_counter(), scope["path"] if scope["path"] in TIMED else "other"

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, str(message["status"])).inc()
                if path != "other":
                    self.metrics.seconds.observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, counting)


async def answer(send: Any, status: int, error: str) -> None:
    """One JSON object, in the form of all errors."""
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
