"""`Limits`: how much the service takes of one request, and of all together."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...errors import require


@dataclass(frozen=True)
class Limits:
    """What is beyond is refused at once: 413 for a body, 422 for texts, 503 for a queue that is full.

    Attributes:
        batch: texts that are classified together.
        wait: milliseconds that a text waits for others to come.
        queue: texts that wait, at most.
        body: bytes of a request.
        texts: of one request.
        characters: of one text.
        seconds: until the answer, after which the request is given up with 504.
    """

    batch: int = 64
    wait: float = 3.0
    queue: int = 4096
    body: int = 1 << 20
    texts: int = 1024
    characters: int = 20_000
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            require(value > 0 or (each.name == "wait" and value == 0), "Limits", each.name, "above 0", value)
        require(self.texts <= self.queue, "Limits", "texts", f"at most queue, {self.queue:,}", self.texts)
