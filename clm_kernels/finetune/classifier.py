"""`Classifier`: a fine-tuned model read from disk, its predictions, and its export as a plain checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..delta import Delta
from .data import Split
from .encode import Encoded, collator, encode, spread
from .errors import listed, require
from .models import check_directory, load, longest
from .outputs import DELTA, write_folder


class Prediction(NamedTuple):
    """Sequence: a text, its label, the label's probability. Token: words, their tags, the tags' probabilities;
    tag and probability are None for a word that was cut off."""

    text: Any
    label: Any
    probability: Any


class Classifier:
    """A fine-tuned model that predicts.

    Attributes:
        task: ``"sequence"`` or ``"token"``.
        label_names: in the order of the model's outputs.
        max_length: tokens after which a text is cut off.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, max_length: int):
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.model, self.tokenizer, self.task, self.max_length = model.eval().to(device), tokenizer, task, max_length
        self.label_names = [model.config.id2label[i] for i in range(model.config.num_labels)]

    @classmethod
    def load(cls, folder: str | Path = "", model: str | Path = "", delta: str | Path = "") -> Classifier:
        """Reads what `train` or `export` left, or a base model and a delta file.

        Args:
            folder: output of `train` or `export`.
            model: base model's directory; for the output of `train`, if the base is not where it was.
            delta: delta file, for the base in `model`.

        Raises:
            ValueError: if something is missing, broken, or does not belong together.
        """
        require(bool(folder) != bool(delta), "Classifier.load", "folder or delta", "given, one of them", "both" if folder else "none")
        if folder:
            require(Path(folder).is_dir(), "Classifier.load", "folder", "the output of train or export", repr(str(folder)))
        if delta or (Path(folder) / DELTA).is_file():
            return cls._from_delta(model, delta or Path(folder) / DELTA, folder)
        require(not model, "Classifier.load", "model", "left out for a folder that has its own weights", repr(str(model)))
        return cls._from_checkpoint(folder)

    @classmethod
    def _from_delta(cls, model: str | Path, path: str | Path, tokenizer: str | Path) -> Classifier:
        require(Path(path).is_file(), "Classifier.load", "delta", "an existing file", repr(str(path)))
        delta = Delta.load(path)
        made = delta.made
        require("task" in made and len(delta.labels) > 1, "Classifier.load", "delta", "one that `train` made", repr(str(path)))
        base = model or made["model"]
        if not model:
            require(Path(base).is_dir(), "Classifier.load", "model", "given, as the base is no longer where it was", repr(base))
        loaded = load(base, made["task"], delta.labels, made["pooling"], made["dtype"], tokenizer)
        delta.apply(loaded.model)
        return cls(loaded.model, loaded.tokenizer, made["task"], made["max_length"])

    @classmethod
    def _from_checkpoint(cls, folder: str | Path) -> Classifier:
        check_directory("Classifier.load", folder)
        config = AutoConfig.from_pretrained(folder)
        name = (config.architectures or [""])[0]
        task = next((task for task in ("sequence", "token") if name.endswith(f"For{task.title()}Classification")), None)
        require(task is not None, "Classifier.load", "folder", "a fine-tuned classifier", f"{name or 'a model'} in {str(folder)!r}")
        labels = [config.id2label[i] for i in range(config.num_labels)]
        loaded = load(folder, task, labels)
        missing = listed(loaded.missing, 3)
        require(not missing, "Classifier.load", "folder", "a whole checkpoint", f"{str(folder)!r} without {missing}")
        return cls(loaded.model, loaded.tokenizer, task, longest(loaded, loaded.tokenizer.model_max_length))

    @torch.no_grad()
    def predict(self, texts: Sequence[Any], batch_size: int = 64) -> Iterator[Prediction]:
        """A prediction for each text (or list of words), in their order."""
        if not texts:
            return
        split = Split("", list(texts), [None] * len(texts), list(range(len(texts))))
        encoded = encode(split, self.task, None, self.tokenizer, self.max_length, sort=True)
        collate, found = collator("sequence", self.tokenizer), {}
        rows = encoded.dataset.remove_columns("length").to_list()
        for start in range(0, len(rows), batch_size):
            batch = collate(rows[start : start + batch_size])
            probabilities = self.model(**batch.to(self.model.device)).logits.float().softmax(-1)
            best = [values.cpu() for values in probabilities.max(-1)]
            for i, (probability, number) in enumerate(zip(*best, strict=True), start):
                found[encoded.split.where[i]] = self._prediction(encoded, i, probability, number)
        for i in range(len(texts)):
            yield found.pop(i)

    def _prediction(self, encoded: Encoded, i: int, probability: torch.Tensor, number: torch.Tensor) -> Prediction:
        text = encoded.split.texts[i]
        if self.task == "sequence":
            return Prediction(text, self.label_names[int(number)], float(probability))
        first = encoded.first_tokens[i]
        tags = spread(number[list(first.values())].tolist(), first, len(text), self.label_names)
        return Prediction(text, tags, [float(probability[first[word]]) if word in first else None for word in range(len(text))])

    def export(self, folder: str | Path) -> None:
        """Writes a checkpoint that plain transformers loads, with the same predictions.

        Raises:
            ValueError: if the folder is not empty.
        """
        folder = Path(folder)
        require(not folder.exists() or not any(folder.iterdir()), "export", "output", "a new or empty folder", repr(str(folder)))
        self.tokenizer.model_max_length = self.max_length
        write_folder(folder, lambda beside: (self.model.save_pretrained(beside), self.tokenizer.save_pretrained(beside)))
