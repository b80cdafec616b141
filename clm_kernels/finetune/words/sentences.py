"""What the words of single sentences hold of the gradient in a trained model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import require
from ...selection import Selection
from ..artifacts import SELECTION
from ..classifier import Classifier
from ..config import TrainConfig
from ..data import read_split
from ..methods import method_of
from ..outputs import recorded_config
from ..split import Split
from ..tasks import TASKS, Task
from .reading import Reader
from .watching import Watch

WORDS = 24  # of a sentence that is shown, if there are enough of these


class Sentence(NamedTuple):
    """A sentence, its words, and each one's part of the sentence's energy.

    Attributes:
        label: the text's; empty where every word has its own.
        words: as they are written, special tokens included.
        labels: of each word.
        held: 1 together.
    """

    label: str
    words: list[str]
    labels: list[str]
    held: list[float]


def sentences(run: Path, count: int) -> list[Sentence]:
    """Some sentences of the run's test data, else of its validation or training data, by their own labels.

    Each is run forward and backward alone, with the run's selection and energy, through the model that the run has left.

    Raises:
        ValueError: if none of the run's files is there any more, or the model or its base is not.
    """
    config = recorded_config(run)
    classifier = Classifier.load(run)
    task = TASKS[classifier.task]
    split = _some(_data(config, task), task, count)
    encoded = task.encode(split, classifier.label_names, classifier.tokenizer, classifier.max_length, False, classifier.template)
    read = Reader(task, classifier.tokenizer, encoded, classifier.max_length, classifier.template)
    rows = encoded.dataset.remove_columns("length").to_list()
    collate = task.collate(classifier.tokenizer)
    prepared = method_of(config).prepare(classifier.model, config, Selection.load(run / SELECTION))
    found = []
    with prepared.handle as handle, Watch(classifier.model, handle.active) as watch, torch.enable_grad():
        for number, row in enumerate(rows):
            classifier.model(**collate([row]).to(classifier.model.device)).loss.backward()
            (batch,) = watch.batches
            watch.batches.clear()
            ((_, _, held),) = batch.rows()
            words, label = read.row(number), split.labels[number]
            parts = [sum(held[i] for i in word.tokens) for word in words]
            found.append(Sentence("" if task.per_token else label, [w.text for w in words], [w.label for w in words], parts))
    return found


def _data(config: TrainConfig, task: Task) -> Split:
    files = (config.data.test, config.data.validation, config.data.train)
    path = next((path for path in files if path and Path(path).is_file()), None)
    require(path is not None, "sentences", "the run's data", f"where it was, {config.data.train!r}", "gone")
    return read_split(path, task, config.data)


def _some(split: Split, task: Task, count: int) -> Split:
    """Short ones before long ones; of each label in turn, or, where every word has its own, those with most labels."""
    others = list({str(text): i for i, text in reversed(list(enumerate(split.texts)))}.values())[::-1]  # each text once
    chosen = [i for i in others if _length(split.texts[i]) <= WORDS] or others
    if task.per_token:
        return split.part(sorted(chosen, key=lambda i: -len(set(split.labels[i])))[:count])
    by_label: dict[Any, list[int]] = defaultdict(list)
    for i in chosen:
        by_label[split.labels[i]].append(i)
    turns = zip_longest(*(by_label[label] for label in sorted(by_label)))
    return split.part([i for i in chain.from_iterable(turns) if i is not None][:count])


def _length(text: str | Sequence[str]) -> int:
    return len(text.split() if isinstance(text, str) else text)
