"""What a run has to say for itself: report.json."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..errors import require
from ..files import write_atomically
from ..strangers import MEGABYTE, fits, read_json

SCORES = {"best_by": str, "best": {str: (float, None)}, "test": (None, {str: float}), "seconds": dict}  # as JSON


@dataclass
class Report:
    """The outcome of one training run.

    Attributes:
        config: the run's config, with absolute paths.
        data: files, their rows and checksums, and where validation came from; of what a hub gave, its `address` too.
        selection: a line per weight that is selected or was scored, as `choose.overview.Line` describes it: what is
            selected, the weight's share of the sensitivity of all, and how much of that lies in what is selected.
        cost: FLOPs of a training step, as `choose.cost.Cost` names its parts, for batches of `batch` texts of `length` tokens;
            `share`: its backward over full fine-tuning's, both of every token. Where tokens are left out, `layers`: by the name
            of each linear layer, what of the backward goes by its share of them. Empty where they cannot be counted.
        active: a line for each epoch in which tokens were left out of the backward, counted as they came, padding included; of
            several processes process 0's. `layers`: share that took part by the linear layers' names; `tokens`: the same over
            all linear layers, each weighted by its FLOPs, at 1 where none are left out; `flops`: those of the backward at
            these shares over full fine-tuning's backward, or None.
        examples: a line for each epoch of a run that may skip examples: the parts of `examples` and of their `tokens` that were
            read.
        epochs: how many were trained; of the last one perhaps a part. 0 in reports of earlier versions.
        spent: FLOPs of each epoch beside those of full fine-tuning's epoch on every token of all examples, by `cost`, `active` and
            `examples`; choosing what to train is not in it. Of an epoch that was trained in part its steps' alone: half an epoch of full
            fine-tuning has 0.5, and the part of full fine-tuning of a whole run is the sum over `epochs`. Empty where they
            cannot be counted.
        packing: the part of the tokens run in training that was padding, `before` packing and `after`; of several processes
            process 0's. What `active`, `spent` and `cost` set beside full fine-tuning is beside one that is packed too. Empty
            without it.
        planned: with a `cost` asked for, what `spent` was to be, as seen from the beginning.
        trained, parameters: how many numbers were trained, and how many the model has.
        seconds: ``selecting``, ``training`` (all of it), ``epochs`` (each, without validation), ``replay`` (the frozen
            layers' one pass over the training texts, where they are replayed).
        history: a line per validation: epoch, step, and its scores.
        best: the line of the history that won, by `best_by`.
        test: scores of the best checkpoint on the test data, or None.
        cut: for each split, how many texts (or words) were cut off at `max_length`.
        windows: for each split that has some, how many `texts` were longer than that and read in how many `windows`.
        sizes: bytes of the files left behind.
        merged: the new tokens, the groups that were left out and why, and each split's mean tokens of a text before and
            after; empty without `merge_tokens`.
        words: label -> the three words that hold most of its gradient in the end (``active_tokens.json`` has more); empty
            where every token takes part in the backward.
        calibration: the temperature that was fitted on the validation data, on how many `rows` (texts, or words), and the
            expected calibration error over `bins` there, `error_before` and `error_after`. Where a text may have several
            labels, also the ``thresholds`` of their probabilities.
        divided: with `fsdp`, how many `processes` hold the base together, the bytes that process 0 holds of it (`shards`) and of
            what is trained (`trained`), those of the whole `base`, and those of the gradients that are `exchanged` in a step.
        classes: where a text may have several labels: for ``validation`` and ``test`` a line for each label, with its precision,
            recall, F1, support and how often it was given.
        seeds: of several, the `best` by validation, which this report is of; of all `runs` the scores of their best
            checkpoints; their `mean` and `sd` (of a sample), by part and score. Empty for one.
        search: all `trials`, each with its options, its validation score and seconds; the number of the `best`; the `space`
            that was searched. Empty without it.
        minutes: what was `asked` for, what was `predicted` before training and what was `paid`, until the result was to be written;
            the `epochs` and `cost` that were found, and the `share` of tokens and examples that it means (None: all); the
            `seconds` of the prediction's parts; the `speed`, seconds of a `batch` and of a token, as they were measured. Empty
            without. `shares`: of the second epoch and each later one, as the clock, or `Training.shares`, has told them; of a run that
            was resumed there is nothing else.
        scope: the `threshold` below which a text is out of scope, on how many validation texts (`rows`) it was fitted, and which
            part of them it keeps; empty for tags.
        exchanged: with several processes, their number, the `bytes` of gradients that each gives away in a step as they were
            counted, the `entries` that these are of, and ``bytes_an_entry``. Empty for one process.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    labels: list[str]
    selection: list[dict[str, Any]]
    trained: int
    parameters: int
    best_by: str
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] | None = None
    max_length: int = 0
    cut: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    made_on: dict[str, str] = field(default_factory=dict)
    merged: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    active: list[dict[str, Any]] = field(default_factory=list)
    words: dict[str, list[str]] = field(default_factory=dict)
    examples: list[dict[str, float]] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    planned: list[float] = field(default_factory=list)
    packing: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    scope: dict[str, Any] = field(default_factory=dict)
    minutes: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    exchanged: dict[str, float] = field(default_factory=dict)
    divided: dict[str, int] = field(default_factory=dict)
    windows: dict[str, dict[str, int]] = field(default_factory=dict)
    epochs: float = 0.0

    def save(self, path: Path) -> None:
        write_atomically(path, (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Report:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        content = read_json(path, "load", "the report of a run", most=16 * MEGABYTE)
        known = {spec.name for spec in fields(cls)}
        needed = {spec.name for spec in fields(cls) if spec.default_factory is MISSING and spec.default is MISSING}
        require(needed <= content.keys() <= known, "load", repr(str(path)), "the report of a run", "other names")
        told: dict[str, Any] = {name: content.get(name) for name in SCORES}
        scored = fits(told, SCORES) and told["best_by"] in told["best"]
        require(scored, "load", repr(str(path)), "the report of a run with its scores", "another")
        return cls(**content)


def machine(device: torch.device) -> dict[str, str]:
    """Versions and machine, for the record."""
    names = ("torch", "transformers", "accelerate", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {**versions, "python": platform.python_version(), "platform": platform.platform(), "device": str(device)}


def validations(log_history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The Trainer's log as a line per validation, with the training loss before it."""
    lines, loss = [], None
    for entry in log_history:
        loss = entry.get("loss", loss)
        if "eval_loss" in entry:
            scores = without_timing(entry, "eval_")
            lines.append({"epoch": entry["epoch"], "step": entry["step"], "train_loss": loss, **scores})
    return lines


def without_timing(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """The Trainer's metrics that begin with `prefix`, without it, and without runtime and throughput."""
    timing = ("runtime", "per_second")
    return {key.removeprefix(prefix): v for key, v in metrics.items() if key.startswith(prefix) and not key.endswith(timing)}
