"""`Batcher`: requests that come one by one are answered in batches of what waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from .limits import Limits

Classify = Callable[[list[Any], list[str], int], Sequence[Any]]  # texts, the task of each, how many labels of each


class Busy(Exception):
    """So much waits already that this would wait too long."""


class Closed(Exception):
    """The service is shutting down."""


class _Asked(NamedTuple):
    texts: list[Any]
    tasks: list[str]
    top: int
    answer: asyncio.Future


class Batcher:
    """Classifies in one thread, what came meanwhile together.

    A batch holds whole requests that ask for as many labels, as long as they fit; a request that is larger goes by itself. Where
    a batch fails, its requests are tried one by one, so that one text never spoils another's answer.

    Args:
        classify: as `Trunk.classify`; called in the one thread alone.
        seen: is told the size of each batch.
    """

    def __init__(self, classify: Classify, limits: Limits, seen: Callable[[int], None] = lambda size: None):
        self._classify, self._limits, self._seen = classify, limits, seen
        self._waiting: deque[_Asked] = deque()
        self._came, self._closing = asyncio.Event(), False
        self._thread = ThreadPoolExecutor(1, "classify")

    @property
    def waiting(self) -> int:
        """Texts that nobody has begun to classify."""
        return sum(len(asked.texts) for asked in self._waiting)

    async def ask(self, texts: list[Any], tasks: list[str], top: int = 1) -> list[Any]:
        """A prediction for each text, by the task beside it.

        Raises:
            Busy: if the queue has no room for so many.
            Closed: after `close`.
            Exception: whatever `classify` raises for them.
        """
        if self._closing:
            raise Closed
        if self.waiting + len(texts) > self._limits.queue:
            raise Busy
        asked = _Asked(texts, tasks, top, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._came.set()
        return await asked.answer

    async def run(self) -> None:
        """Answers until `close` was called and nothing waits any more."""
        while not (self._closing and not self._waiting):
            await self._came.wait()
            self._came.clear()
            if self._waiting and not self._closing:
                await self._others()
            while taken := self._taken():
                await self._answer(taken)
        self._thread.shutdown()

    def close(self) -> None:
        """No request is taken from now on; those that wait are answered."""
        self._closing = True
        self._came.set()

    async def _others(self) -> None:
        """Waits for a batch to fill, not longer than the limit."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.wait / 1000
        while self.waiting < self._limits.batch and not self._closing and (left := end - loop.time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._came.wait(), left)
            self._came.clear()

    def _taken(self) -> list[_Asked]:
        taken: list[_Asked] = []
        while self._waiting:
            first = self._waiting[0]
            if first.answer.done():  # given up by whoever asked
                self._waiting.popleft()
                continue
            size = sum(len(asked.texts) for asked in taken)
            if taken and (size + len(first.texts) > self._limits.batch or first.top != taken[0].top):
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _answer(self, taken: list[_Asked]) -> None:
        texts = [text for asked in taken for text in asked.texts]
        tasks = [name for asked in taken for name in asked.tasks]
        self._seen(len(texts))
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._classify, texts, tasks, taken[0].top)
        except Exception as error:
            if len(taken) > 1:
                for asked in taken:
                    await self._answer([asked])
            elif not taken[0].answer.done():
                taken[0].answer.set_exception(error)
            return
        rest = iter(found)
        for asked in taken:
            own = [next(rest) for _ in asked.texts]
            if not asked.answer.done():
                asked.answer.set_result(own)
