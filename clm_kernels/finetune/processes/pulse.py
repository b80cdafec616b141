"""Which process of a run is gone: each beats, and watches the next one."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

BEAT = 1.0  # seconds
PATIENCE = 35.0  # seconds without a beat after which a process is taken for gone
GRACE = 10.0  # seconds in which the main thread may find that out by itself
SEALING = 60.0  # seconds that a process which is to end may take to finish a checkpoint
RUNS = itertools.count()  # all processes begin the same runs in the same order
LOST = "lost"
sealing = threading.Lock()  # held while a checkpoint is finished that all processes have written their parts of


class Pulse(threading.Thread):
    """Beats in the launcher's store, through a connection of its own, as a thread that waits there blocks all others.

    Where the next process falls silent or leaves in an error, every process learns of it here. Its main thread may be waiting for
    that one within torch, where no signal and no exception reaches it; so the process is ended from here.

    Args:
        end: called with the number of the lost process and its reason, if the main thread has not ended the pulse `GRACE` later;
            in the middle of a checkpoint's end, when that is done, or `SEALING` later.
    """

    def __init__(self, rank: int, processes: int, end: Callable[[Mapping[int, str]], None]):
        super().__init__(daemon=True, name="pulse")
        self.rank, self.processes, self._end, self._ended = rank, processes, end, threading.Event()
        prefix = f"clm_kernels/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(RUNS)}"
        self._store = dist.PrefixStore(prefix, _connected())
        self._answered = time.monotonic()
        self._beat()

    def run(self) -> None:
        threading.Thread(target=self._guard, daemon=True, name="pulse guard").start()
        try:
            lost = self._watch()
        except RuntimeError:  # the store is gone, with process 0 or the launcher; but perhaps as everybody has done with it
            lost = {0: ""}
        if lost and not self._ended.wait(GRACE):
            self._leave(lost)

    def stop(self, reason: str = "") -> None:
        """Beats no longer; the others read why, if there is a reason."""
        self._ended.set()
        self.join(GRACE)
        if self.is_alive():  # in a store that does not answer, where this thread would wait too
            return
        with suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", reason)

    def gone(self) -> dict[int, str]:
        """The processes that do not beat any more and have not ended well, each with its reason; takes some seconds."""
        try:
            before = self._beats()
            time.sleep(2.5 * BEAT)
            silent = [rank for rank, (now, then) in enumerate(zip(self._beats(), before, strict=True)) if now == then]
            left = {rank: self._left(rank) for rank in silent if rank != self.rank}
            return {rank: why or "" for rank, why in left.items() if why != ""}
        except RuntimeError:
            return {0: ""}

    def _watch(self) -> dict[int, str]:
        following = (self.rank + 1) % self.processes
        seen, since = 0, time.monotonic()
        while not self._ended.wait(BEAT):
            self._beat()
            if self._store.check([LOST]):
                lost = int(self._store.get(LOST))
                return {lost: self._left(lost) or ""}
            beats, left, now = self._store.add(f"beat/{following}", 0), self._left(following), time.monotonic()
            self._answered = now
            if left:
                self._store.set(LOST, str(following))
            elif left is not None or beats != seen:
                seen, since = beats, now
            elif now - since > PATIENCE:
                self._store.set(LOST, str(following))
        return {}

    def _guard(self) -> None:
        """Asks the store nothing: what it is asked has no deadline, and the process that holds it may be the silent one."""
        while not self._ended.wait(BEAT):
            if self._unanswered() and not self._ended.wait(GRACE) and self._unanswered():
                self._leave({0: ""})

    def _leave(self, lost: Mapping[int, str]) -> None:
        at_once = sealing.acquire(blocking=False)
        held = at_once or sealing.acquire(timeout=SEALING)
        if at_once or not self._ended.wait(GRACE):  # what has been sealed since may have told the loss itself
            self._end(lost)
        if held:
            sealing.release()

    def _unanswered(self) -> bool:
        return time.monotonic() - self._answered > PATIENCE

    def _beat(self) -> None:
        self._store.add(f"beat/{self.rank}", 1)

    def _beats(self) -> list[int]:
        return [self._store.add(f"beat/{rank}", 0) for rank in range(self.processes)]

    def _left(self, rank: int) -> str | None:
        """Why it has left, which is empty if it has ended well; None while it has not."""
        left = f"left/{rank}"
        return self._store.get(left).decode() if self._store.check([left]) else None


def _connected() -> dist.TCPStore:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False)


def leave_at_once(message: str) -> None:
    """Ends this process, whatever it waits for."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
