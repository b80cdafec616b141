"""A folder that runs with ONNX Runtime, numpy and tokenizers alone; compared with the trained model, and timed beside it."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from ...extras import needs
from ...models.folders import read_tokenizer
from ..encode import Encoded
from ..judging.thresholds import f1
from ..outputs import write_folder
from ..split import Split
from .checking import check_logits, check_tokens
from .checkpoint import check_folder_is_new, check_no_mix
from .graph import by_session, for_graph, refusing_model, session_of, write_graph
from .served import BATCH, Batch, Served, by_torch, logits_of

GRAPH, INT8 = "model.onnx", "model.int8.onnx"
# ONNX Runtime fuses layers and adds in another order: MiniLM's logits on banking77 move by 5e-7 of the largest, and tiny
# ModernBERT's by 4e-7. The limit leaves room for larger models; a wrong pooling moves logits by tenths.
LIMIT = 1e-4
QUANTIZED = ["MatMul", "Gemm"]  # an embedding with one scale for all rows lost 0.7 points on banking77, products alone 0.1
ROUNDS, TEXTS = 15, 8


@dataclass(frozen=True)
class Agreement:
    """How a graph does beside the trained model, on the same texts.

    Attributes:
        texts: how many.
        difference: the largest of the logits, in proportion to the largest logit where that is beyond 1.
        same: share of texts, or words, that get the same label, or the same labels where they may have several.
        scored: what the scores are: ``"accuracy"``, or ``"micro F1"`` where a text may have several labels.
        score, trained_score: of the graph and of the trained model; None without labels.
        milliseconds: median for one text on one thread, by ``torch`` and ``onnx``.
    """

    texts: int
    difference: float
    same: float
    scored: str
    score: float | None
    trained_score: float | None
    milliseconds: dict[str, float]


def export_onnx(served: Served, folder: Path, rows: Split | None, int8: bool = False) -> dict[str, Agreement]:
    """Writes ``model.onnx``, with `int8` ``model.int8.onnx`` beside it, tokenizer and config; how each does, by its name.

    Args:
        rows: real texts to compare on; texts of random tokens without.
        int8: weights of matrix products as eight-bit numbers, activations too as they come; only reported, never refused.

    Raises:
        ValueError: for a model that cannot be traced, or whose graph differs by more than 1e-4 of the largest logit.
        NotInstalled: without onnx or onnxruntime.
    """
    for package in ("onnx", "onnxruntime"):
        needs(package, "export")
    check_no_mix(served)
    check_folder_is_new(folder)
    served.tokenizer.model_max_length = served.max_length
    model, encoded = for_graph(served), served.encoded(rows or served.drawn())
    few = served.encoded(encoded.split.part(range(min(TEXTS, len(encoded.split)))))
    padded, single = ([batch.to("cpu") for batch in served.batches(some, size)] for some, size in ((encoded, BATCH), (few, 1)))
    traced = next(served.batches(few, 2)).to("cpu")  # another size and another length than those that it is tried with
    expected, alone = (logits_of(by_torch(model), iter(batches)) for batches in (padded, single))
    found: dict[str, Agreement] = {}

    def write(beside: Path) -> None:
        write_graph(served, model, traced, beside / GRAPH)
        if int8:
            _quantize(beside / GRAPH, beside / INT8)
        served.model.config.save_pretrained(beside)
        served.tokenizer.save_pretrained(beside)
        check_tokens(served, read_tokenizer(beside), encoded)
        for name, limit in {GRAPH: LIMIT, INT8: inf}.items() if int8 else [(GRAPH, LIMIT)]:
            run = by_session(session_of(beside / name))
            with refusing_model(served):
                logits, one_by_one = (logits_of(run, iter(batches)) for batches in (padded, single))
            check_logits(name, alone, one_by_one, few, limit)
            difference = check_logits(name, expected, logits, encoded, limit)
            found[name] = _agreement(served, encoded, expected, logits, difference, _timed(model, beside / name, single))

    write_folder(folder, write)
    return found


def _quantize(graph: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice to prepare the graph, which is for convolutions
    try:
        quantize_dynamic(str(graph), str(path), weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=QUANTIZED)
    finally:
        logging.disable(before)


def _agreement(
    served: Served, encoded: Encoded, expected: list[NDArray], found: list[NDArray], difference: float, times: dict[str, float]
) -> Agreement:  # fmt: skip
    trained, graph = (served.predicted(logits, encoded) for logits in (expected, found))
    gold, scored, score = _gold(served, encoded), "accuracy", _share
    if served.thresholds:
        scored, score = "micro F1", _micro_f1
    scores = [score(gold, labels) if gold else None for labels in (graph, trained)]
    return Agreement(len(expected), difference, _share(trained, graph), scored, scores[0], scores[1], times)


def _gold(served: Served, encoded: Encoded) -> list[Any]:
    """The right labels of the texts, or of the words that were not cut off, as `Served.predicted` has them; empty where not known."""
    number, labels = {name: i for i, name in enumerate(served.labels)}, encoded.split.labels
    if any(label is None for label in labels):
        return []
    if served.thresholds:
        return [frozenset(number[name] for name in names) for names in labels]
    if encoded.first_tokens is None:
        return [number[label] for label in labels]
    return [number[labels[i][word]] for i in range(len(labels)) for word in encoded.first_tokens[i]]


def _share(gold: list[Any], found: list[Any]) -> float:
    return sum(a == b for a, b in zip(gold, found, strict=True)) / max(1, len(gold))


def _micro_f1(gold: list[Any], found: list[Any]) -> float:
    pairs = list(zip(gold, found, strict=True))
    return f1(sum(len(a & b) for a, b in pairs), sum(len(a) + len(b) for a, b in pairs))


@torch.inference_mode()
def _timed(model: Any, path: Path, texts: list[Batch]) -> dict[str, float]:
    """Milliseconds for one text on one thread: the median of rounds in which torch and the graph take turns."""
    ways = {"torch": by_torch(model), "onnx": by_session(session_of(path, threads=1))}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            for name, run in ways.items():
                began = time.perf_counter()
                for text in texts:
                    run(text)
                spent[name].append((time.perf_counter() - began) / len(texts))
    finally:
        torch.set_num_threads(before)
    return {name: 1000 * statistics.median(times) for name, times in spent.items()}
