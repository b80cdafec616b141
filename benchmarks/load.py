"""A load generator for the service: connections that ask again as soon as they are answered, in one thread and without a library.

Client and server share a machine in `benchmarks.service`, so a request costs here what writing bytes and finding a length costs.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import cast

END = b"\r\n\r\n"


@dataclass
class Answers:
    """What came back.

    Attributes:
        seconds: from each request to its answer.
        wrong: answers with another status than 200, or of another form, and connections that broke.
        lasted: from the first request to the last answer.
        processor: seconds of processor time that the client took.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lasted: float = 0.0
    processor: float = 0.0


class Connection(asyncio.Protocol):
    """One connection, which sends its next request as soon as the last is answered."""

    def __init__(self, bodies: Iterator[bytes], texts: int, until: float, answers: Answers):
        self._bodies, self._texts, self._until, self._answers = bodies, texts, until, answers
        self._came, self._length, self._sent, self._asks = bytearray(), 0, 0.0, False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._came += data
        if not self._length and END in self._came:
            head, _, _ = self._came.partition(END)
            told = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._length = len(head) + len(END) + int(told)
        if self._length and len(self._came) >= self._length:
            self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        self._answers.wrong += self._asks
        if not self.done.done():
            self.done.set_result(None)

    def _answered(self) -> None:
        self._answers.seconds.append(perf_counter() - self._sent)
        right = self._came.startswith(b"HTTP/1.1 200 ") and self._came.count(b'"label"') == self._texts
        self._answers.wrong += not right
        self._asks, self._length = False, 0
        self._came.clear()
        if perf_counter() < self._until:
            self._ask()
        else:
            self._transport.close()

    def _ask(self) -> None:
        self._asks, self._sent = True, perf_counter()
        self._transport.write(next(self._bodies))


def requests(texts: Sequence[str], tasks: Sequence[str], each: int) -> Iterator[bytes]:
    """``POST /classify`` with so many texts each, the tasks in turn, for ever."""
    ready = []
    for begin, task in zip(range(0, len(texts), each), itertools.cycle(tasks)):
        some = (list(texts[begin : begin + each]) * each)[:each]
        body = json.dumps({"texts": some, "tasks": task}).encode()
        head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        ready.append(head.encode() + END + body)
    return itertools.cycle(ready)


async def load(port: int, bodies: Iterator[bytes], texts: int, connections: int, seconds: float) -> Answers:
    """Answers to these requests, of so many texts each, over so many connections for so long."""
    answers, loop = Answers(), asyncio.get_running_loop()
    began, processor = perf_counter(), process_time()
    until = began + seconds
    opened = [
        loop.create_connection(lambda: Connection(bodies, texts, until, answers), "127.0.0.1", port) for _ in range(connections)
    ]
    for _, protocol in await asyncio.gather(*opened):
        await protocol.done
    answers.lasted, answers.processor = perf_counter() - began, process_time() - processor
    return answers
