"""SetFit: pairs of texts train the whole sentence encoder, then scikit-learn's logistic regression classifies its embeddings.

Tunstall et al., arXiv 2209.11055, by the package setfit. Of texts alone: its embeddings are of sentences.
"""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

import torch
from torch import Tensor, nn

from clm_kernels.errors import require
from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.data import load_data
from clm_kernels.finetune.metrics import accuracy, macro_f1
from clm_kernels.finetune.report import machine
from clm_kernels.finetune.split import Split

from . import cost
from .logistic import result, size, solving


class Read:
    """Counts the tokens that an encoder is given, padding included: of those that it learns from, and of the others."""

    def __init__(self, encoder: nn.Module):
        self.trained, self.embedded, self.real = 0, 0, 0
        self.batch: dict[str, Tensor] = {}  # the first one
        self._hook = encoder.register_forward_pre_hook(self._count)

    def _count(self, encoder: nn.Module, args: tuple[dict[str, Any], ...]) -> None:
        features = args[0]
        if torch.is_grad_enabled():
            self.trained += features["input_ids"].numel()
        else:
            self.embedded += features["input_ids"].numel()
        self.real += int(features["attention_mask"].sum())
        self.batch = self.batch or {name: value.clone() for name, value in features.items() if isinstance(value, Tensor)}

    def stop(self) -> None:
        self._hook.remove()


def run(config: TrainConfig, rate: float, num_iterations: int) -> dict[str, Any]:
    """A cell's result; everything that is not said here is SetFit's default.

    Args:
        rate: of the encoder.
        num_iterations: for each text so many pairs with one of its label, and as many with one of another. SetFit's own default is every
            pair, those of the rarer kind again and again: of 500 texts of 77 labels a quarter of a million.
    """
    require(config.data.task == "sequence", "setfit", "task", "sequence, as it embeds whole texts", repr(config.data.task))
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from threadpoolctl import threadpool_limits

    before = cost.memory(torch.device("cpu"))
    corpus = load_data(config.data, config.run.seed)
    model = SetFitModel.from_pretrained(config.data.model)
    body = model.model_body
    body.max_seq_length = min(body.max_seq_length or config.data.max_length, config.data.max_length)
    args = TrainingArguments(
        output_dir=config.run.output, body_learning_rate=rate, num_iterations=num_iterations, seed=config.run.seed,
        report_to="none", save_strategy="no", show_progress_bar=False,
    )  # fmt: skip
    train = Dataset.from_dict({"text": list(corpus.train.texts), "label": list(corpus.train.labels)})
    with threadpool_limits(torch.get_num_threads()):
        trainer, read, began = Trainer(model=model, args=args, train_dataset=train), Read(body[0]), time.perf_counter()
        trainer.train()
    seconds = time.perf_counter() - began
    read.stop()
    scores = {part: score(model, split) for part, split in corpus.splits.items() if part != "train"}
    peak, head = cost.memory(body.device) - (before if body.device.type == "cpu" else 0), model.model_head
    numbers, trained = (sum(p.numel() for p in body.parameters() if p.requires_grad or every) for every in (True, False))
    return result(
        config.training.best_by, scores, step=trainer.st_trainer.state.global_step,
        trained=trained + size(head), head=size(head), parameters=numbers + size(head),
        seconds={"selecting": 0.0, "training": seconds}, tokens=read.real,
        flops={"selecting": 0, "training": spent(body, read) + solving(head, len(train))}, peak_bytes=peak,
        made_on=machine(body.device) | {"setfit": importlib.metadata.version("setfit")},
        pairs=len(trainer.st_trainer.train_dataset),
    )  # fmt: skip


def score(model: Any, split: Split) -> dict[str, float]:
    predicted = list(map(str, model.predict(list(split.texts))))
    gold = list(split.labels)
    return {"accuracy": accuracy(gold, predicted), "macro_f1": macro_f1(gold, predicted)}


def spent(body: nn.Module, read: Read) -> float:
    """FLOPs of all texts that were read, by those of the first batch for a padded token; the loss has no matrix products."""
    tokens = read.batch["input_ids"].numel()
    body.train()
    learning = cost.flops(lambda: body(dict(read.batch))["sentence_embedding"].sum().backward())
    body.zero_grad(set_to_none=True)
    with torch.no_grad():
        embedding = cost.flops(lambda: body(dict(read.batch)))
    return (read.trained * learning + read.embedded * embedding) / tokens
