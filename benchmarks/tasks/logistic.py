"""What people in a hurry take: the frozen base model's vectors, made once, and scikit-learn's logistic regression on them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.beginning import Begun, begin
from clm_kernels.finetune.encode import IGNORED
from clm_kernels.finetune.report import machine
from clm_kernels.finetune.saying import to_stderr
from clm_kernels.models.pooled_head import pool
from clm_kernels.models.pooling import current_pooling
from clm_kernels.models.structure import base_model

from . import cost

TEXTS = 32  # in a batch, of about the same length
ITERATIONS = 1000  # of the solver at most; scikit-learn's 100 are too few for tags


def run(config: TrainConfig, c: float) -> dict[str, Any]:
    """A cell's result.

    Args:
        c: scikit-learn's ``C``, the inverse of its penalty on large weights.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    before = cost.memory(torch.device("cpu"))
    begun, made = begin(config, to_stderr), []
    began = time.perf_counter()
    operations = cost.flops(lambda: made.append(vectors(begun, "train")))
    embedding = time.perf_counter() - began
    ((x, labels),) = made
    began = time.perf_counter()
    with threadpool_limits(torch.get_num_threads()):
        head = LogisticRegression(C=c, max_iter=ITERATIONS).fit(x, labels[labels != IGNORED])
    fitting = time.perf_counter() - began
    scores = {part: score(begun, part, head) for part in begun.splits if part != "train"}
    device, read = begun.args.device, sum(begun.splits["train"].dataset["length"])
    return result(
        str(begun.args.metric_for_best_model), scores, step=int(head.n_iter_.max()),
        trained=size(head), head=size(head), parameters=begun.loaded.model.num_parameters(),
        seconds={"selecting": embedding, "training": fitting}, tokens=read,
        flops={"selecting": operations, "training": solving(head, len(x))},
        peak_bytes=cost.memory(device) - (before if device.type == "cpu" else 0), made_on=machine(device),
    )  # fmt: skip


def result(
    score: str, scores: dict[str, dict[str, float]], *, step: int, trained: int, head: int, parameters: int,
    seconds: dict[str, float], tokens: int, flops: dict[str, float], peak_bytes: int, made_on: dict[str, str], **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """What a cell stores of a method that has one checkpoint, the last.

    Args:
        score: which of the scores is reported.
        scores: those of ``validation`` and, where it was to be scored, ``test``.
    """
    validation, test = scores["validation"][score], scores.get("test")
    return {
        "score": score, "validation": validation, "best_step": step, "test": test and test[score], "test_scores": test,
        "history": [{"step": step, "validation": validation}], "trained": trained, "trained_head": head, "parameters": parameters,
        "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / sum(seconds.values()), "flops": flops,
        "peak_bytes": peak_bytes, "threads": torch.get_num_threads(), "made_on": made_on, **more,
    }  # fmt: skip


@torch.no_grad()
def vectors(begun: Begun, part: str) -> tuple[np.ndarray, np.ndarray]:
    """What the head would read of a part, (n, H), and its labels: one a text, or one a token, of which those not `IGNORED` have a vector.

    Of texts that are classified this is the pooled vector, of tagged ones each word's first token.
    """
    model, dataset = begun.loaded.model.eval(), begun.splits[part].dataset
    base, collate, found = base_model(model), begun.task.collate(begun.loaded.tokenizer), []
    if part == "train":  # the others are sorted already
        dataset = dataset.select(np.argsort(-np.asarray(dataset["length"]), kind="stable"))
    for start in range(0, len(dataset), TEXTS):
        rows = dataset.select(range(start, min(start + TEXTS, len(dataset)))).remove_columns("length").to_list()
        batch = {name: tensor.to(begun.args.device) for name, tensor in collate(rows).items()}
        labels = batch.pop("labels")
        states = base(**batch).last_hidden_state
        read = states[labels != IGNORED] if begun.task.per_token else pool(states, batch["attention_mask"], _pooling(begun))
        found.append(read.float().cpu().numpy())
    return np.concatenate(found), np.concatenate([np.atleast_1d(row) for row in dataset["labels"]])


def _pooling(begun: Begun) -> str:
    """The head's own, or the first token; where hooks have pooled, each token holds the pooled vector, and pooling these changes nothing."""
    pooling = current_pooling(begun.loaded.model)
    return "cls" if pooling in (None, "native") else pooling


def score(begun: Begun, part: str, head: Any) -> dict[str, float]:
    """The task's scores of what the head predicts for a part."""
    encoded = begun.splits[part]
    x, labels = vectors(begun, part)
    predicted = np.zeros_like(labels)
    predicted[labels != IGNORED] = head.predict(x)
    if begun.task.per_token:
        ends = np.cumsum([len(row) for row in encoded.dataset["labels"]])[:-1]
        predicted, labels = np.split(predicted, ends), np.split(labels, ends)
    return begun.task.score(encoded, begun.corpus.label_names)(EvalPrediction(predicted, labels))


def size(head: Any) -> int:
    """Numbers of a logistic regression."""
    return head.coef_.size + head.intercept_.size


def solving(head: Any, rows: int) -> int:
    """FLOPs of the solver by reckoning, as torch's counter does not see them: in each iteration the scores of all rows, and their gradient."""
    return 4 * rows * head.coef_.size * int(head.n_iter_.max())
