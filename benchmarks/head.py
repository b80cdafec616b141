"""``--method head`` beside logistic regression on the same embeddings: seconds from a file to a test score. ``python -m benchmarks head``.

scikit-learn's regression at its defaults, but for as many iterations as it wants, on the model's mean-pooled texts, each embedded once, in
batches of like length. Both in turn on one thread, by processor time, which other programs do not stop; the first round is not counted.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from clm_kernels.demo import model_directory
from clm_kernels.finetune import TrainConfig, train

from .common import keep, ratio, row
from .tasks.tasks import TASKS, data_directory, write_parts

SIZES = ({"train": 500, "validation": 300, "test": 1000}, {"train": 2000, "validation": 300, "test": 1000})
ROUNDS, BATCH, MAX_LENGTH = 3, 32, 128


def main() -> list[dict[str, object]]:
    torch.set_num_threads(1)
    rows = []
    for sizes in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            parts = write_parts(TASKS["banking77"], sizes, Path(folder), data_directory())
            seconds: dict[str, list[float]] = {"head": [], "regression": []}
            for i in range(1 + ROUNDS):
                start = process_time()
                score = _head(parts, f"{folder}/{i}")
                middle = process_time()
                other = _regression(parts)
                seconds["head"].append(middle - start)
                seconds["regression"].append(process_time() - middle)
        counted = {name: taken[1:] for name, taken in seconds.items()}
        measured = ratio(counted, "head", "regression")
        what = f"banking77, {sizes['train']} texts: --method head / embedding once and logistic regression"
        accuracy = {"head": score, "regression": other}
        rows.append(row(what, measured, "<= 1.3", measured <= 1.3, seconds=counted, accuracy=accuracy))
        keep("head", rows)
    return rows


def _head(parts: dict[str, str], output: str) -> float:
    config = TrainConfig(model=str(model_directory()), output=output, method="head", max_length=MAX_LENGTH, seed=1, **parts)
    report = train(config, lambda _: None)
    assert report.test is not None
    return report.test["accuracy"]


def _regression(parts: dict[str, str]) -> float:
    """Accuracy on test; validation is scored too, as `train` does."""
    tokenizer, model = AutoTokenizer.from_pretrained(model_directory()), AutoModel.from_pretrained(model_directory())
    rows = {
        part: [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()] for part, path in parts.items()
    }
    features = {part: _embedded(model, tokenizer, [row["text"] for row in own]) for part, own in rows.items()}
    labels = {part: [row["label"] for row in own] for part, own in rows.items()}
    fitted = LogisticRegression(max_iter=1000).fit(features["train"], labels["train"])
    fitted.score(features["validation"], labels["validation"])
    return float(fitted.score(features["test"], labels["test"]))


@torch.inference_mode()
def _embedded(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Mean-pooled texts (n, size)."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.empty((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = tokenizer([texts[i] for i in chosen], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = model(**batch).last_hidden_state
        found[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return found


if __name__ == "__main__":
    main()
