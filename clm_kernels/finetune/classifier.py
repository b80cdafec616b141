"""`Classifier`: a fine-tuned model read from disk, its predictions, and its export as a plain checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from ..delta import Delta
from ..errors import listed, refuse, require
from ..models.bounds import check_files, said
from ..models.folders import read_config
from ..models.heads import label_names
from ..models.pooling import pooling_of
from ..models.structure import head_names
from ..strangers import brief, cut, fits
from ..token_groups.merging import add_tokens
from .artifacts import SCOPE
from .asked import check_batch_size, list_of, text_of
from .encode import Encoded, check_cuts
from .judging.keeping import CONFIG_KEY, DETAIL, calibration_of
from .judging.logits import of_texts
from .judging.ranking import Predicted, Ranking
from .judging.scope import Scope, kept_features
from .lora import Adapter
from .methods import METHODS
from .models import Loaded, check_directory, load, longest
from .outputs import base_of, columns_of, recorded_columns, tasks_in
from .shipping.checkpoint import export_checkpoint
from .shipping.onnx_folder import GRAPH
from .shipping.served import Served
from .split import Split
from .tasks import TASKS, Task
from .templates import template_of
from .windows import check_long, keep_long, long_of

FEW = 1000  # labels: of a head for so many that the delta does not hold, nobody notices the memory


class Classifier:
    """A fine-tuned model that predicts.

    Attributes:
        task: ``"sequence"``, ``"token"``, ``"multilabel"`` or another task's name.
        label_names: in the order of the model's outputs.
        classes_: the same as an array, by the name that scikit-learn gives it.
        max_length: tokens after which a text is cut off.
        template: words around every text, as the model's config records them.
        cut: how many texts (sequence) or words (token) have been cut off so far.
        long: how it was trained to read texts beyond `max_length`, and reads them where nobody says otherwise: ``"truncate"`` or
            ``"window"``.
        columns: of the training data, by `TrainConfig`'s names (``text_column`` …), where a run has recorded them.
        calibration: the temperature of its probabilities, and what validation tells of rejecting labels, or from which
            probability on to give each.
        scope: where its texts lie, by which others are out of scope; None where that is not kept beside it.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int):
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.model: Any = model.eval()
        self.model.to(device)
        self.tokenizer, self.task, self._task, self.max_length = tokenizer, task.name, task, max_length
        self.template, self.long = template_of(model.config), long_of(model.config)
        self.cut, self.columns = 0, dict[str, str]()
        self.label_names = label_names(model)
        self.calibration = calibration_of(model.config, task, len(self.label_names))
        self.scope: Scope | None = None

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
        classifier = cls._read(model, delta)
        classifier.scope = Scope.beside(Path(delta).parent if delta else Path(model), len(classifier.label_names))
        return classifier

    @classmethod
    def _read(cls, model: str | Path, delta: str | Path) -> Classifier:
        if delta:
            require(Path(delta).is_file(), "Classifier.load", "delta", "an existing file", repr(str(delta)))
            return cls._from_delta(_read(Path(delta)), model)
        left = (Path(model) / method.leaves for method in METHODS.values() if not method.whole_checkpoint)
        if own := next((path for path in left if path.is_file()), None):
            read = _read(own)
            base = base_of(Path(model)) or read.recipe.model
            expected = f"where it was, {base!r} (else give model and delta)"
            require(Path(base).is_dir(), "Classifier.load", "the base model", expected, "gone")
            return cls._from_delta(read, base, tokenizer=model)
        return cls._from_checkpoint(model)

    @classmethod
    def _from_delta(cls, delta: Delta | Adapter, base: str | Path, tokenizer: str | Path = "") -> Classifier:
        recipe, labels = delta.recipe, delta.labels
        ours = recipe.task in list(TASKS) and len(labels) > 1
        require(ours, "Classifier.load", "delta", "one of a text or token classifier, with two labels or more", cut(repr(delta)))
        held = delta.tensors if isinstance(delta, Adapter) else delta.whole  # the head, which is made for so many labels
        known = len(labels) <= FEW or any(tensor.dim() and len(tensor) == len(labels) for tensor in held.values())
        require(known, "Classifier.load", "the delta's labels", "those of its head", f"{len(labels):,}")
        task, pooling, dtype = TASKS[recipe.task], recipe.pooling or "native", recipe.dtype or "auto"
        loaded = load(base, task, labels, pooling, dtype, tokenizer, recipe.template, "none")
        if isinstance(delta, Adapter):
            delta.apply(loaded)
        else:
            _check_whole(loaded, delta)
            if delta.extension is not None:
                add_tokens(loaded.tokenizer, delta.extension.tokens)
            delta.merge(loaded.model)
        setattr(loaded.model.config, CONFIG_KEY, recipe.details.get(DETAIL))  # in place of the base's own
        made_with = recipe.details.get("config")
        keep_long(loaded.model.config, made_with.get("long") if isinstance(made_with, dict) else None)
        limit = recipe.max_length or longest(loaded, loaded.tokenizer.model_max_length)
        classifier = cls(loaded.model, loaded.tokenizer, task, limit)
        classifier.columns = recorded_columns(made_with)
        return classifier

    @classmethod
    def _from_checkpoint(cls, folder: str | Path) -> Classifier:
        several = [f"{folder}/{name}" for name in tasks_in(Path(folder))]
        require(not several, "Classifier.load", "model", "the folder of one task", f"one with {listed(several)}")
        graph = (Path(folder) / GRAPH).is_file() and not any(Path(folder).glob("*.safetensors*"))
        read_by = f"an ONNX export, {str(folder)!r}, which onnx_client.py runs (docs/shipping.md)"
        require(not graph, "Classifier.load", "model", "what train or an export without --onnx left", read_by)
        check_directory("Classifier.load", folder)
        check_files("Classifier.load", folder)
        try:
            config: Any = read_config(folder)
        except Exception as error:  # whatever transformers makes of what it did not expect
            refuse("Classifier.load", "model", "a fine-tuned classifier", f"{str(folder)!r}: {said(error)}")
        named = config.architectures
        name = str(named[0]) if isinstance(named, list) and named else ""
        known = [task for task in TASKS.values() if task.suits(name, getattr(config, "problem_type", None))]
        found = f"{cut(name) or 'a model'} in {str(folder)!r}"
        require(bool(known), "Classifier.load", "model", "a fine-tuned classifier", found)
        task = known[0]
        labels = [config.id2label.get(i) for i in range(config.num_labels)]
        require(fits(labels, [str]), "Classifier.load", "id2label of the config", "a text for every label", brief(labels))
        pooling = "native" if task.per_token else pooling_of(folder)
        loaded = load(folder, task, labels, pooling, template=template_of(config))
        missing = listed(loaded.missing, 3)
        require(not missing, "Classifier.load", "model", "a whole checkpoint", f"{str(folder)!r} without {missing}")
        classifier = cls(loaded.model, loaded.tokenizer, task, longest(loaded, loaded.tokenizer.model_max_length))
        classifier.columns = columns_of(Path(folder))
        return classifier

    @property
    def classes_(self) -> NDArray[np.str_]:
        return np.array(self.label_names)

    @overload
    def predict(
        self, texts: str, batch_size: int = 64, *, top: int = 1, reject: float | None = None, out_of_scope: bool = False,
        long: str | None = None, progress: bool = False,
    ) -> Predicted: ...  # fmt: skip

    @overload
    def predict(
        self, texts: Sequence[Any], batch_size: int = 64, *, top: int = 1, reject: float | None = None,
        out_of_scope: bool = False, long: str | None = None, progress: bool = False,
    ) -> Iterator[Predicted]: ...  # fmt: skip

    def predict(
        self,
        texts: Any,
        batch_size: int = 64,
        *,
        top: int = 1,
        reject: float | None = None,
        out_of_scope: bool = False,
        long: str | None = None,
        progress: bool = False,
    ) -> Predicted | Iterator[Predicted]:
        """A prediction for each text (or list of words), in their order; for one text alone, that of its own.

        Args:
            texts: a list of texts, or anything that holds them in an order; for tags of lists of words; or one text.
            batch_size: texts in a batch.
            top: how many of the best labels to give, each with its probability, as a `Ranked`; not for tags.
            reject: the precision that is wanted: where the validation says that it would be less, the label is None.
                Not for tags.
            out_of_scope: whether to mark texts that are about none of the labels, by a threshold that keeps 95 % of the validation
                texts: their label is None and their ``out_of_scope`` True. Not for tags.
            long: what becomes of texts beyond `max_length`: ``"truncate"``, cut off at their ends, which the prediction says;
                ``"window"``, read in windows that overlap by a quarter, whose logits are averaged, or of which each word has the tag of
                one; ``"error"``; None: as in training.
            progress: whether to show transformers' bar over the batches, which its ``disable_progress_bar`` switches off.

        Raises:
            ValueError: for a text that is none, a precision that no threshold reached on the validation data, for tags with any of these, for a
                classifier of which nothing is kept that tells what is out of scope, and for a text that is too long, where `long`
                says so.
        """
        check_batch_size("predict", batch_size)
        long = self.long if long is None else long
        check_long("predict", long)
        ranking = Ranking.of(self.calibration, self._task, len(self.label_names), top, reject)
        if out_of_scope:
            one = "left out where a text may have several labels, as it is for texts with one: such a text may get none"
            require(not self._task.several, "predict", "out_of_scope", one, True)
            kept_with_it = f"left out for tags, and where no {SCOPE} is kept with the classifier"
            require(self.scope is not None, "predict", "out_of_scope", kept_with_it, True)
            ranking = replace(ranking, scope=self.scope)
        found = self._predict(self._given("predict", texts), batch_size, ranking, long, progress)
        return next(found) if isinstance(texts, str) else found

    def predict_proba(self, texts: Any, batch_size: int = 64, *, progress: bool = False) -> Any:
        """The calibrated probabilities of all labels, in the order of `classes_`; long texts are read as in training.

        Args:
            texts, batch_size, progress: as for `predict`.

        Returns:
            Probabilities ``(texts, labels)``, for one text alone ``(labels,)``. For tags a list with ``(words, labels)`` for each
            text; words that were cut off have nan.
        """
        check_batch_size("predict_proba", batch_size)
        rows = list(self._probabilities(self._given("predict_proba", texts), batch_size, progress))
        if isinstance(texts, str):
            return rows[0]
        return rows if self._task.per_token else np.array(rows, np.float32).reshape(-1, len(self.label_names))

    def _given(self, function: str, texts: Any) -> list[Any]:
        """One text or several, checked, as the task takes them."""
        if isinstance(texts, str):
            return [text_of(function, texts, self._task, "texts")]
        return [text_of(function, text, self._task, f"texts[{i}]") for i, text in enumerate(list_of(function, texts))]

    def _predict(
        self, texts: Sequence[Any], batch_size: int, ranking: Ranking, long: str, progress: bool
    ) -> Iterator[Predicted]:  # fmt: skip
        if not len(texts):
            return
        encoded = self._encoded(texts, long)
        scope = ranking.scope
        with kept_features(self.model, scope is not None) as features:
            found = [ranking.best(logits) for logits in self._logits(encoded, batch_size, progress)]
        near = scope.scores(of_texts(encoded, torch.cat(features))) if scope else None
        for i in _given_order(encoded):
            probabilities, numbers = (values[i % batch_size] for values in found[i // batch_size])
            outside = None if scope is None or near is None else bool(near[i] < scope.threshold)
            yield ranking.decode(self._task, encoded, i, numbers, probabilities, self.label_names, outside)

    def _probabilities(self, texts: Sequence[Any], batch_size: int, progress: bool) -> Iterator[NDArray[np.float32]]:
        if not len(texts):
            return
        encoded, ranking = (
            self._encoded(texts, self.long),
            Ranking.of(self.calibration, self._task, len(self.label_names), 1, None),
        )
        found = [ranking.probabilities(logits).cpu().numpy() for logits in self._logits(encoded, batch_size, progress)]
        for i in _given_order(encoded):
            row = found[i // batch_size][i % batch_size]
            yield row if encoded.first_tokens is None else _of_words(row, encoded.first_tokens[i], len(encoded.split.texts[i]))

    def _encoded(self, texts: Sequence[Any], long: str) -> Encoded:
        """The texts, longest first, with their number in `texts` as their place."""
        split = Split("", list(texts), [None] * len(texts), range(len(texts)))
        encoded = self._task.encode(split, None, self.tokenizer, self.max_length, True, self.template, long)
        if long == "error":
            check_cuts("predict", encoded, self._task.unit, self.max_length)
        self.cut += encoded.cut
        return encoded

    def _logits(self, encoded: Encoded, batch_size: int, progress: bool) -> Iterator[Tensor]:
        """Of one batch of texts after the other."""
        rows = self._row_logits(encoded, batch_size, progress)
        if encoded.windows is None:
            yield from rows
            return
        pooled = iter(encoded.pooled(row for batch in rows for row in batch.float().cpu().numpy()))
        while some := list(map(torch.from_numpy, islice(pooled, batch_size))):
            yield pad_sequence(some, batch_first=True)

    @torch.no_grad()
    def _row_logits(self, encoded: Encoded, batch_size: int, progress: bool) -> Iterator[Tensor]:
        """Of one batch of the dataset's rows after the other."""
        collate: Any = DataCollatorWithPadding(self.tokenizer)
        starts = range(0, len(encoded.dataset), batch_size)
        for start in tqdm(starts, desc="predict", unit="batch", disable=not progress):
            columns = encoded.dataset.remove_columns("length")[start : start + batch_size]
            batch = collate([dict(zip(columns, values)) for values in zip(*columns.values())])
            yield self.model(**batch.to(self.model.device)).logits

    def export(self, folder: str | Path, code: bool = True, rows: Split | None = None) -> float:
        """Writes a checkpoint that plain transformers loads, with the same logits for the same tokens, and reads it again to see.

        The temperature stands in the config, as ``clm_calibration``: plain transformers' probabilities are those before it. Where
        a layer with a sliding window attends to both sides, plain transformers reaches one token further, and a warning says so.
        What was trained on a template is to be given texts in it; the config records it as ``clm_template``.

        Where no class of transformers pools as the head does, ``clm_pooled.py`` goes along: Python code, which plain transformers
        runs, and needs, with ``trust_remote_code=True``. Where one does, the folder is that class's; the last token is then the
        last one that is not the padding token, so a text must not end in that token's name.

        Args:
            code: False: no code is written; refused where the model's own class would predict otherwise.
            rows: texts on which it is compared with the model in memory; without, texts of tokens drawn at random.

        Returns:
            The largest difference of the logits; after an adapter, in proportion to the largest logit where that is beyond 1.

        Raises:
            ValueError: if the folder is not empty, only some layers attend to both sides, the head reads a mix of all layers, code
                is needed and not wanted, or the logits differ by more than 1e-5 (with weights of two bytes, by their rounding).
        """
        difference = export_checkpoint(self.served(), Path(folder), code, rows)
        if self.scope:
            self.scope.save(Path(folder))
        return difference

    def served(self) -> Served:
        """All that is needed to ship it."""
        thresholds = self.calibration.thresholds if self._task.several else ()
        return Served(
            self.model, self.tokenizer, self._task, self.label_names, self.max_length, self.template,
            self.calibration.temperature, thresholds,
        )  # fmt: skip


def _given_order(encoded: Encoded) -> list[int]:
    """Where each text is now, in the order that they were given in."""
    return np.argsort(np.fromiter(encoded.split.where, np.int64, len(encoded.split))).tolist()


def _of_words(rows: NDArray[np.float32], first: Mapping[int, int], words: int) -> NDArray[np.float32]:
    """The rows of each word's first token; nan for words that were cut off."""
    found = np.full((words, rows.shape[-1]), np.nan, np.float32)
    found[list(first)] = rows[list(first.values())]
    return found


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
