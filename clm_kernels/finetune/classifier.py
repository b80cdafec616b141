"""`Classifier`: a fine-tuned model read from disk, its predictions, and its export as a plain checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from ..delta import Delta
from ..errors import listed, require
from ..models.attention import bidirectional_layers
from ..models.heads import label_names
from ..models.mixing import mixes_layers
from ..models.pooling import pooling_of
from ..models.portable import read_config, save_portable
from ..models.structure import head_names
from ..token_groups.merging import add_tokens
from .lora import Adapter, fold
from .methods import METHODS
from .models import Loaded, check_directory, load, longest
from .outputs import write_folder
from .split import Split
from .tasks import TASKS, Task
from .tasks.base import Prediction
from .templates import template_of


class Classifier:
    """A fine-tuned model that predicts.

    Attributes:
        task: ``"sequence"``, ``"token"`` or another task's name.
        label_names: in the order of the model's outputs.
        max_length: tokens after which a text is cut off.
        template: words around every text, as the model's config records them.
        cut: how many texts (sequence) or words (token) have been cut off so far.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int):
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.model: Any = model.eval()
        self.model.to(device)
        self.tokenizer, self.task, self._task, self.max_length = tokenizer, task.name, task, max_length
        self.template, self.cut = template_of(model.config), 0
        self.label_names = label_names(model)

    @classmethod
    def load(cls, model: str | Path, delta: str | Path = "") -> Classifier:
        """Reads what `train` or an export left, or a base model and a delta file.

        Args:
            model: output of `train` or of an export; with `delta`, the base model's directory.
            delta: delta file for that base, or the adapter file of the method lora.

        Raises:
            ValueError: if something is missing, broken, or does not belong together.
            RuntimeError: for an adapter without peft.
        """
        if delta:
            require(Path(delta).is_file(), "Classifier.load", "delta", "an existing file", repr(str(delta)))
            return cls._from_delta(_read(Path(delta)), model)
        left = (Path(model) / method.leaves for method in METHODS.values() if not method.whole_checkpoint)
        if own := next((path for path in left if path.is_file()), None):
            read = _read(own)
            base = read.recipe.model
            expected = f"where it was, {base!r} (else give model and delta)"
            require(Path(base).is_dir(), "Classifier.load", "the base model", expected, "gone")
            return cls._from_delta(read, base, tokenizer=model)
        return cls._from_checkpoint(model)

    @classmethod
    def _from_delta(cls, delta: Delta | Adapter, base: str | Path, tokenizer: str | Path = "") -> Classifier:
        recipe, labels = delta.recipe, delta.labels
        ours = recipe.task in list(TASKS) and len(labels) > 1
        require(ours, "Classifier.load", "delta", "one of a text or token classifier, with two labels or more", repr(delta))
        task, pooling, dtype = TASKS[recipe.task], recipe.pooling or "native", recipe.dtype or "auto"
        loaded = load(base, task, labels, pooling, dtype, tokenizer, recipe.template, "none")
        if isinstance(delta, Adapter):
            delta.apply(loaded)
        else:
            _check_whole(loaded, delta)
            if delta.extension is not None:
                add_tokens(loaded.tokenizer, delta.extension.tokens)
            delta.merge(loaded.model)
        limit = recipe.max_length or longest(loaded, loaded.tokenizer.model_max_length)
        return cls(loaded.model, loaded.tokenizer, task, limit)

    @classmethod
    def _from_checkpoint(cls, folder: str | Path) -> Classifier:
        check_directory("Classifier.load", folder)
        config: Any = read_config(folder)
        name = (config.architectures or [""])[0]
        known = [task for task in TASKS.values() if name.endswith(task.architecture)]
        found = f"{name or 'a model'} in {str(folder)!r}"
        require(bool(known), "Classifier.load", "model", "a fine-tuned classifier", found)
        task = known[0]
        labels = [config.id2label[i] for i in range(config.num_labels)]
        pooling = "native" if task.per_token else pooling_of(folder)
        loaded = load(folder, task, labels, pooling, template=template_of(config))
        missing = listed(loaded.missing, 3)
        require(not missing, "Classifier.load", "model", "a whole checkpoint", f"{str(folder)!r} without {missing}")
        return cls(loaded.model, loaded.tokenizer, task, longest(loaded, loaded.tokenizer.model_max_length))

    @torch.no_grad()
    def predict(self, texts: Sequence[Any], batch_size: int = 64) -> Iterator[Prediction]:
        """A prediction for each text (or list of words), in their order."""
        if not texts:
            return
        split = Split("", list(texts), [None] * len(texts), list(range(len(texts))))
        encoded = self._task.encode(split, None, self.tokenizer, self.max_length, True, self.template)
        self.cut += encoded.cut
        collate: Any = DataCollatorWithPadding(self.tokenizer)
        found: dict[int, Prediction] = {}
        rows = encoded.dataset.remove_columns("length").to_list()
        for start in range(0, len(rows), batch_size):
            batch = collate(rows[start : start + batch_size])
            probabilities = self.model(**batch.to(self.model.device)).logits.float().softmax(-1)
            best = [values.cpu() for values in probabilities.max(-1)]
            for i, (probability, number) in enumerate(zip(*best, strict=True), start):
                found[encoded.split.where[i]] = self._task.decode(encoded, i, number, probability, self.label_names)
        for i in range(len(texts)):
            yield found.pop(i)

    def export(self, folder: str | Path) -> None:
        """Writes a checkpoint that plain transformers loads, with the same predictions for the same tokens.

        Those of an adapter are the same to rounding. Where a layer with a sliding window attends to both sides, plain
        transformers reaches one token further, and a warning says so. What was trained on a template is to be given texts
        in it; the config records it as ``clm_template``.

        Raises:
            ValueError: if the folder is not empty, only some layers attend to both sides, or the head reads a mix of all layers.
        """
        folder, both = Path(folder), bidirectional_layers(self.model)
        plain = len(both) in (0, getattr(self.model.config.get_text_config(), "num_hidden_layers", 0))
        every = "all layers or none, as plain transformers knows no others"
        require(
            plain, "export", "the model", f"one that attends to both sides in {every}", f"layers {both.start} to {both.stop - 1}"
        )
        mixed = mixes_layers(self.model)
        require(not mixed, "export", "the model", "one whose head reads the last layer alone", "one that mixes all layers")
        windows = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if both and windows:
            warnings.warn(
                f"export: beyond {windows} tokens, plain transformers' windows reach one token further to both sides; "
                "predictions on such texts may differ",
                stacklevel=2,
            )
        require(not folder.exists() or not any(folder.iterdir()), "export", "output", "a new or empty folder", repr(str(folder)))
        self.tokenizer.model_max_length = self.max_length
        fold(self.model)

        def write(beside: Path) -> None:
            save_portable(self.model, beside)
            self.tokenizer.save_pretrained(beside)

        write_folder(folder, write)


def _check_whole(loaded: Loaded, delta: Delta) -> None:
    """Raises ValueError for a weight that is read, and that neither the base's checkpoint nor the delta holds."""
    pooled = delta.recipe.pooling not in ("", "native")  # then BERT's pooler is left out
    read = set(head_names(loaded.model)) if pooled else set(loaded.missing)
    missing = [name for name in loaded.missing if name in read and name not in delta.whole]
    expected = "one that holds what its base's checkpoint does not: patch with `head` naming that too"
    require(not missing, "Classifier.load", "delta", expected, f"one without {listed(missing, 3)}")


def _read(path: Path) -> Delta | Adapter:
    """What a method left: told by the file's name; one of any other name is a delta."""
    return next((method.load for method in METHODS.values() if method.leaves == path.name), Delta.load)(path)
