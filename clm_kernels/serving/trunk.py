"""`Trunk`: one base model and any number of deltas, each a classifier."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..delta import Delta
from ..errors import listed, require
from ..finetune.asked import check_batch_size, list_of, text_of
from ..finetune.tasks import TASKS, Task
from ..strangers import brief
from .base import Base
from .member import Member, read_delta
from .reading import readings_of
from .texts import tasks_of
from .ways import run


class Memory(NamedTuple):
    """Bytes of the tensors that a trunk holds.

    Attributes:
        base: of the base's weights.
        tasks: by name, what each task has for itself.
    """

    base: int
    tasks: dict[str, int]

    @property
    def total(self) -> int:
        return self.base + sum(self.tasks.values())


class Trunk:
    """One base model in memory, and any number of tasks' deltas on it.

    Each task has its own head, labels, calibration, template, pooling, attention, tokens, biases and norms. Its predictions are
    those of `Classifier.load` of its folder. All methods may be called from several threads: forwards follow one another, and
    what is added, replaced or dropped meanwhile changes no answer that is under way.

    Args:
        base: directory of the base model.
        dtype: of its weights: ``"auto"`` as they are stored, or a torch dtype's name. It must be that of every delta.

    Raises:
        ValueError: if the directory is missing or holds no such model.
    """

    def __init__(self, base: str | Path, dtype: str = "auto"):
        self._base = Base(base, dtype)
        self._members: dict[str, Member] = {}  # replaced, never changed: who has begun with one goes on with it
        self._changing = threading.Lock()

    @property
    def tasks(self) -> dict[str, list[str]]:
        """The label names of each task, by its name."""
        return {name: list(member.labels) for name, member in self._members.items()}

    def is_tagger(self, name: str) -> bool:
        """Whether a task tags words; the others are of whole texts.

        Raises:
            KeyError: for a task that the trunk has not.
        """
        return self.kind(name).per_token

    def kind(self, name: str) -> Task:
        """What a task does with texts: gives each one label, or several, or tags its words.

        Raises:
            KeyError: for a task that the trunk has not.
        """
        return TASKS[self._members[name].classifier.task]

    def memory(self) -> Memory:
        """What the base and each task take."""
        return Memory(self._base.nbytes, {name: member.nbytes for name, member in self._members.items()})

    def add(self, name: str, task: str | Path | Delta) -> None:
        """Adds a task, or puts another delta in the place of one with the same labels.

        Args:
            name: by which it is asked for.
            task: a folder that `train` left, a delta file, or a delta.

        Raises:
            ValueError: if there is no delta, it is damaged, was made on another base or in another dtype, or has other labels
                than the task of that name; the trunk is then as before.
        """
        require(isinstance(name, str) and bool(name.strip()), "Trunk.add", "name", "a text that is not empty", brief(name))
        with self._changing:
            delta = read_delta(task, name)
            told = self._base.check(delta, name)
            former = self._members.get(name)
            same = former is None or former.labels == delta.labels
            expected = f"those of the task that it replaces, {listed(former.labels) if former else ''} (drop that first)"
            require(same, "Trunk.add", f"the labels of {name!r}", expected, listed(delta.labels))
            if not told and not delta.originals:
                warnings.warn(f"Trunk.add: nothing tells whether the base of {name!r} was this one", stacklevel=2)
            self._members = {**self._members, name: Member(name, delta, self._base)}

    def drop(self, name: str) -> None:
        """Drops a task.

        Raises:
            ValueError: if there is none of that name.
        """
        with self._changing:
            require(name in self._members, "Trunk.drop", "name", f"one of {listed(self._members) or 'none'}", brief(name))
            self._members = {each: member for each, member in self._members.items() if each != name}

    def classify(
        self,
        texts: Any,
        tasks: str | Sequence[str] | None = None,
        batch_size: int = 64,
        *,
        mix: bool | str = "auto",
        top: int = 1,
        reject: float | None = None,
    ) -> Any:
        """What each task's classifier predicts.

        Args:
            texts: a list of texts, or of lists of words for taggers, which split a text at its spaces; or one text.
            tasks: one name, a name for each text, or None for every task on every text.
            batch_size: texts in a batch.
            mix: True: texts of several tasks share batches, with results to rounding as those of each task alone; False: each
                task runs by itself, bit for bit as alone; ``"auto"``: mixed where the tasks have few texts each, see `mixes`.
            top: how many of the best labels to give, as `Classifier.predict` takes it.
            reject: the precision that is wanted, likewise.

        Returns:
            A prediction for each text, in their order, as `Classifier.predict` gives it; where every task is asked, a dict of
            them by the tasks' names. For one text alone, that of its own.

        Raises:
            ValueError: for a task that the trunk has not, a text that is none, or what a task's classifier refuses.
        """
        if isinstance(texts, str):
            return self.classify([texts], tasks, batch_size, mix=mix, top=top, reject=reject)[0]
        require(mix in (True, False, "auto"), "Trunk.classify", "mix", "True, False or 'auto'", brief(mix))
        check_batch_size("Trunk.classify", batch_size)
        texts = list_of("Trunk.classify", texts)
        members = self._members
        asked = tasks_of(len(texts), tasks, members)
        if not texts:
            return []
        read = {
            name: [text_of("Trunk.classify", texts[i], self.kind(name), f"texts[{i}] for {name!r}") for i in places]
            for name, places in asked.items()
        }
        with self._base.running:
            readings = readings_of(members, read, top, reject)
            run(list(readings.values()), batch_size, mix)
            found = {name: reading.predictions() for name, reading in readings.items()}
        answers: list[Any] = [{} for _ in texts]
        for name, places in asked.items():
            for i, prediction in zip(places, found[name], strict=True):
                if tasks is None:
                    answers[i][name] = prediction
                else:
                    answers[i] = prediction
        return answers
