"""Which process of a run is gone: each beats, and watches the next one."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

BEAT = 1.0  # seconds
PATIENCE = 35.0  # seconds without a beat after which a process is taken for gone
GRACE = 10.0  # seconds in which the main thread may find that out by itself
RUNS = itertools.count()  # all processes begin the same runs in the same order
LOST = "lost"


class Pulse(threading.Thread):
    """Beats in the launcher's store, through a connection of its own, as a thread that waits there blocks all others.

    Where the next process falls silent, every process learns of it here. Its main thread may be waiting for that one within
    torch, where no signal and no exception reaches it; so the process is ended from here.

    Args:
        end: called with the number of the silent process, if the main thread has not ended the pulse `GRACE` later.
    """

    def __init__(self, rank: int, processes: int, end: Callable[[int], None]):
        super().__init__(daemon=True, name="pulse")
        self.rank, self.processes, self._end, self._ended = rank, processes, end, threading.Event()
        prefix = f"clm_kernels/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(RUNS)}"
        self._store = dist.PrefixStore(prefix, _connected())
        self._beat()

    def run(self) -> None:
        try:
            silent = self._watch()
        except RuntimeError:  # the store is gone, with process 0 or the launcher; but perhaps as everybody has done with it
            silent = 0
        if silent is not None and not self._ended.wait(GRACE):
            self._end(silent)

    def stop(self, reason: str = "") -> None:
        """Beats no longer; the others read why, if there is a reason."""
        self._ended.set()
        with suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", reason)

    def gone(self) -> dict[int, str]:
        """The processes that do not beat any more, each with the reason that it gave; takes some seconds."""
        try:
            before = self._beats()
            time.sleep(2.5 * BEAT)
            silent = [rank for rank, (now, then) in enumerate(zip(self._beats(), before, strict=True)) if now == then]
            return {rank: self._reason(rank) for rank in silent if rank != self.rank}
        except RuntimeError:
            return {0: ""}

    def _watch(self) -> int | None:
        following = (self.rank + 1) % self.processes
        seen, since = 0, time.monotonic()
        while not self._ended.wait(BEAT):
            self._beat()
            if self._store.check([LOST]):
                return int(self._store.get(LOST))
            beats, now = self._store.add(f"beat/{following}", 0), time.monotonic()
            if beats != seen or self._store.check([f"left/{following}"]):
                seen, since = beats, now
            elif now - since > PATIENCE:
                self._store.set(LOST, str(following))
        return None

    def _beat(self) -> None:
        self._store.add(f"beat/{self.rank}", 1)

    def _beats(self) -> list[int]:
        return [self._store.add(f"beat/{rank}", 0) for rank in range(self.processes)]

    def _reason(self, rank: int) -> str:
        left = f"left/{rank}"
        return self._store.get(left).decode() if self._store.check([left]) else ""


def _connected() -> dist.TCPStore:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False)


def leave_at_once(message: str) -> None:
    """Ends this process, whatever it waits for."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
