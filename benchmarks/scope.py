"""What tells texts that are about none of the labels: scores of softmax, logits and features, on clinc150 and hint3_curekart.

    python -m benchmarks.scope --output benchmarks/results/scope

Three runs of `train` each, of all-MiniLM-L6-v2 on 450 texts. What is used is chosen where no test text is: on clinc150's own
validation texts out of scope, and on texts of a quarter of hint3_curekart's labels that a run of its own never saw. For each run, a
line of JSON keeps every text's scores: the higher, the more a text is in scope.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from clm_kernels.demo import model_directory
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.judging.scope import kept_features

from .tasks.tasks import TASKS, data_directory, write_parts

SEEDS, SIZES = (1, 2, 3), {"train": 450, "validation": 150, "test": 600}
RUNS = {  # task, and the part of its labels that a run never sees -> the parts that choose, and those that are reported
    ("clinc150", 0.0): (("validation", "oos_validation"), ("test", "oos_test")),
    ("hint3_curekart", 0.25): (("validation", "held_out"), None),
    ("hint3_curekart", 0.0): (None, ("test", "oos_test")),
}
SOFTMAX, DRAWS, RECALL = "softmax", 1000, 0.95
LINES, TABLE = "cells.jsonl", "table.md"
Score = Callable[[NDArray, NDArray], NDArray]  # of features (n, size) and logits (n, labels)
Scores = dict[str, NDArray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    asked = parser.parse_args()
    if not asked.table:
        datasets.disable_progress_bars()
        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(1)
        asked.output.mkdir(parents=True, exist_ok=True)
        done = {key_of(cell) for cell in read(asked.output / LINES)}
        for task, held in RUNS:
            for seed in SEEDS:
                if (task, held, seed) not in done:
                    put(asked.output / LINES, cell_of(task, held, seed, *run(task, held, seed)))
    shown = table(read(asked.output / LINES))
    (asked.output / TABLE).write_text(f"{shown}\n", encoding="utf-8")
    print(shown)


def run(task: str, held: float, seed: int) -> tuple[dict[str, tuple[NDArray, NDArray, NDArray]], dict[str, Any]]:
    """Trains, and gives features, logits and label numbers (-1: none of the labels) of each part, and the scores of the test."""
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(TASKS[task], SIZES, Path(folder) / "data", data_directory())
        rows = {part: read(Path(path)) for part, path in parts.items()}
        if held:
            hold_out(rows, held, seed)
            for part, path in parts.items():
                Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows[part]), encoding="utf-8")
        else:
            rows |= {path.stem: read(path) for path in sorted((data_directory() / task).glob("oos_*.jsonl"))}
        config = TrainConfig(
            model=str(model_directory()), output=f"{folder}/out", seed=seed, batch_size=16, max_length=64, epochs=3, **parts
        )
        report = train(config, print)
        classifier = Classifier.load(config.run.output)
        numbers = {name: i for i, name in enumerate(classifier.label_names)}
        found = {}
        for part, own in rows.items():
            gold = np.array([numbers.get(row["label"], -1) for row in own])
            found[part] = (*features_and_logits(classifier, [row["text"] for row in own]), gold)
        return found, {"test": report.test, "made_on": report.made_on}


def hold_out(rows: dict[str, list[dict]], part: float, seed: int) -> None:
    """Moves the texts of a part of the labels to ``held_out``; those of the test are dropped."""
    labels = sorted({row["label"] for row in rows["train"]})
    random.Random(seed).shuffle(labels)
    out = set(labels[: int(len(labels) * part)])
    rows["held_out"] = [row for name in ("train", "validation") for row in rows[name] if row["label"] in out]
    for name in SIZES:
        rows[name] = [row for row in rows[name] if row["label"] not in out]


@torch.no_grad()
def features_and_logits(classifier: Classifier, texts: list[str], size: int = 64) -> tuple[NDArray, NDArray]:
    logits = []
    with kept_features(classifier.model) as features:
        for start in range(0, len(texts), size):
            given = {"truncation": True, "max_length": classifier.max_length, "padding": True, "return_tensors": "pt"}
            logits.append(classifier.model(**classifier.tokenizer(texts[start : start + size], **given)).logits)
    return torch.cat(features).numpy(), torch.cat(logits).numpy()


def scorers(features: NDArray, gold: NDArray) -> dict[str, Score]:
    """Every candidate, made of the training texts."""
    labels = np.unique(gold)
    means = np.stack([features[gold == label].mean(0) for label in labels])
    directions, near = unit(features), unit(np.stack([unit(features[gold == label]).mean(0) for label in labels]))
    whiten = whitening(features - means[np.searchsorted(labels, gold)])
    return {
        SOFTMAX: lambda f, logits: np.exp(logits.max(1) - log_sum_exp(logits)),
        "largest logit": lambda f, logits: logits.max(1),
        "energy": lambda f, logits: log_sum_exp(logits),
        "Mahalanobis": lambda f, logits: -squares(f @ whiten, means @ whiten).min(1),
        "cosine to class means": lambda f, logits: (unit(f) @ near.T).max(1),
        "cosine to the nearest text": lambda f, logits: (unit(f) @ directions.T).max(1),
    }


def unit(rows: NDArray) -> NDArray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def log_sum_exp(logits: NDArray) -> NDArray:
    most = logits.max(1)
    return most + np.log(np.exp(logits - most[:, None]).sum(1))


def squares(a: NDArray, b: NDArray) -> NDArray:
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def whitening(residuals: NDArray) -> NDArray:
    """Of a covariance that all labels share, shrunk as O. Ledoit and M. Wolf (2004) have it."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(residuals, assume_centered=True)
    return np.linalg.cholesky(np.linalg.inv(covariance))


def cell_of(task: str, held: float, seed: int, found: dict[str, tuple], told: dict[str, Any]) -> dict[str, Any]:
    features, _, gold = found["train"]
    made = scorers(features, gold)
    asked = {part for pair in RUNS[task, held] if pair for part in pair}
    scores = {
        part: {name: [float(f"{value:.5g}") for value in score(*found[part][:2])] for name, score in made.items()}
        for part in sorted(asked)
    }
    return {"task": task, "held": held, "seed": seed, **told, "scores": scores}


def auroc(inside: NDArray, outside: NDArray) -> float:
    """How likely a text in scope has a higher score than one out of scope; ties count half."""
    ordered = np.sort(outside)
    ranks = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    return float(ranks.mean() / (2 * len(outside)))


def accepted(inside: NDArray, outside: NDArray) -> float:
    """The part of the texts out of scope that pass where 95 % of those in scope do."""
    return float((outside >= np.quantile(inside, 1 - RECALL, method="lower")).mean())


def compared(cells: list[dict], name: str, pair: tuple[str, str], draws: int = DRAWS) -> dict[str, tuple[float, float, float]]:
    """Means over the seeds of what a score reaches, and the interval of what it has more than the softmax.

    Texts are drawn with replacement, the same ones for both scores, and for all seeds that judge the same texts.
    """
    values = {way: [[np.array(cell["scores"][part][way]) for part in pair] for cell in cells] for way in (name, SOFTMAX)}
    sizes = sorted({len(rows) for parts in values[name] for rows in parts})
    rng, measures = np.random.default_rng(1), (auroc, accepted)

    def over(measure: Callable, way: str, rows: dict[int, NDArray]) -> float:
        return float(np.mean([measure(*(part[rows[len(part)]] for part in parts)) for parts in values[way]]))

    more = []
    for _ in range(draws):
        rows = {size: rng.integers(size, size=size) for size in sizes}
        more.append([over(measure, name, rows) - over(measure, SOFTMAX, rows) for measure in measures])
    low, high = np.quantile(more, [0.025, 0.975], axis=0)
    whole = {size: np.arange(size) for size in sizes}
    return {measure.__name__: (over(measure, name, whole), low[i], high[i]) for i, measure in enumerate(measures)}


def table(cells: list[dict]) -> str:
    """AUROC, and the false-accept rate at 95 % recall, with the interval of the difference to the softmax."""
    lines = []
    for chooses in (0, 1):
        for key, pairs in RUNS.items():
            own = [cell for cell in cells if (cell["task"], cell["held"]) == key]
            if pairs[chooses] is None or not own:
                continue
            title = f"{key[0]}, {' and '.join(pairs[chooses])}, {len(own)} seeds"
            lines += [
                "",
                title,
                "",
                "| score | AUROC | more than softmax | accepted at 95 % | more than softmax |",
                "|---|---|---|---|---|",
            ]
            for name in own[0]["scores"][pairs[chooses][0]]:
                found = compared(own, name, pairs[chooses])
                columns = [
                    f"{value:.3f} | {'' if name == SOFTMAX else f'{low:+.3f} to {high:+.3f}'}"
                    for value, low, high in found.values()
                ]
                lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines[1:])


def key_of(cell: dict[str, Any]) -> tuple[str, float, int]:
    return cell["task"], cell["held"], cell["seed"]


def put(file: Path, cell: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(cell) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    main()
