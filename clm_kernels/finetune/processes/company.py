"""All processes of one run: an error of one ends all, they must begin alike, and who is left alone says by whom."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from ...errors import require
from ...extras import needs
from ...fingerprint import checksum
from ...selection import Selection
from ..interruption import unstoppable
from .pulse import Pulse, leave_at_once

# Words of what a lost connection raises
BROKEN = ("third_party/gloo/gloo/", "NCCL", "Connection closed by peer", "Connection reset by peer")


class Company:
    """The processes of a run that is one of its own: nothing is to be agreed on.

    Attributes:
        processes: how many there are.
    """

    processes = 1

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """A context that all processes leave together: an error in one raises in each, and says in which it was."""
        yield

    def check_alike(self, told: Mapping[str, Any]) -> None:
        """Raises ValueError, in every process, for the first of these that is not the same in all of them."""

    def check_selection(self, selection: Selection) -> None:
        """The same for what each has chosen by itself."""


class Several(Company):
    """The processes that a launcher has started.

    Attributes:
        names: of each, its number, machine and process id.
    """

    def __init__(self) -> None:
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        own = f"process {self.rank} of {self.processes} ({socket.gethostname()}, pid {os.getpid()})"
        self.names: list[str] = self._of_all(own)
        self.pulse = Pulse(self.rank, self.processes, lambda gone: leave_at_once(self._lost(gone)))
        self.pulse.start()

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        told = self._of_all(None if failed is None else (isinstance(failed, ValueError), _said(failed)))
        if failed is not None:
            raise failed
        for name, theirs in zip(self.names, told, strict=True):
            if theirs is not None:
                by_user, message = theirs
                error_type = ValueError if by_user else RuntimeError
                raise error_type(f"train: all processes must begin well, got an error in {name}: {message}")

    def check_alike(self, told: Mapping[str, Any]) -> None:
        first, *others = self._of_all(dict(told))
        for rank, theirs in enumerate(others, 1):
            for name in {**first, **theirs}:
                ours, other = first.get(name), theirs.get(name)
                found = f"{ours!r} in process 0 and {other!r} in {self.names[rank]}"
                require(ours == other, "train", name, "the same in all processes", found)

    def check_selection(self, selection: Selection) -> None:
        self.check_alike({"selection": checksum(*selection.to_tensors())})

    def _of_all(self, own: Any) -> list[Any]:
        found: list[Any] = [None] * self.processes
        dist.all_gather_object(found, own)
        return found

    def _lost(self, gone: Mapping[int, str]) -> str:
        named = ", ".join(self.names[rank] + (f": {why}" if why else "") for rank, why in gone.items())
        return f"train: all processes must live until the run ends, got no answer from {named}"

    def left_by(self, error: BaseException) -> RuntimeError | None:
        """What to raise in place of an error that only tells of a lost connection; None for another."""
        if not _is_broken(error):
            return None
        with unstoppable():  # the launcher sends SIGTERM as soon as it sees that one is gone
            gone = self.pulse.gone()
        return RuntimeError(self._lost(gone)) if gone else None


@contextmanager
def in_company() -> Iterator[Company]:
    """Joins the other processes of a launcher, if there are any.

    Raises:
        RuntimeError: in place of whatever torch says, where one of them is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Company()
        return
    needs("accelerate", "train")
    from accelerate import PartialState

    cpu = not torch.accelerator.is_available()
    PartialState(cpu=True) if cpu else PartialState()
    company, reason = Several(), ""
    try:
        yield company
    except BaseException as error:
        lost = company.left_by(error)
        reason = _said(lost or error)
        if lost is not None:
            raise lost from error
        raise
    finally:
        company.pulse.stop(reason)


def _is_broken(error: BaseException | None) -> bool:
    """Whether it, or what it was raised in the course of, tells of a lost connection."""
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(word in str(error) for word in BROKEN)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
