"""`TextClassifier`: `train` and `Classifier` as one estimator of scikit-learn."""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from transformers.utils import logging

from ..errors import require
from ..strangers import brief
from .classifier import Classifier
from .config import PARTS, TrainConfig
from .methods import METHODS
from .outputs import write_folder
from .recipe import train as train_run
from .report import Report
from .saying import say_nothing, to_stderr

OF_FILES = frozenset({
    "train", "validation", "test", "task", "text_column", "label_column", "labels_column", "label_separator", "delimiter", "tokens_column", "tags_column", "skip_bad_rows",
    "output", "resume", "overwrite", "keep_checkpoints",
})  # fmt: skip
Y_NEEDED = "it requires y to be passed, but the target y is None"  # scikit-learn's own words, by which its checks know it
DEFAULTS = {spec.name: spec.default for part in PARTS.values() for spec in fields(part) if spec.name not in OF_FILES}


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A text classifier as scikit-learn has estimators: for pipelines, cross-validation and searches.

    ``fit(texts, labels)`` trains as `train` does, and leaves no file behind. Parameters are the options of `TrainConfig` by their
    names and with their defaults, but for those that name files or columns: ``model`` first, then ``epochs``, ``method``,
    ``density``, ``learning_rate``, ``seed`` … A part ``validation_fraction`` of the texts validates. With ``verbose`` the run's
    lines and bars are shown.

    Needs scikit-learn.

    Attributes:
        classes_: the labels, sorted, in their own type.
        report_: what `train` returns.
        classifier_: the `Classifier` that predicts.
    """

    def __init__(self, model: str = "", *, verbose: bool = False, **options: Any):
        if unknown := options.keys() - DEFAULTS.keys():
            raise TypeError(f"TextClassifier: options must be among {', '.join(DEFAULTS)}, got {min(unknown)!r}")
        for name, value in (DEFAULTS | options | {"model": model, "verbose": verbose}).items():
            setattr(self, name, value)

    def fit(self, X: Sequence[str], y: Sequence[Any]) -> TextClassifier:
        """Trains on texts ``(n,)`` and their labels ``(n,)``; returns self.

        Raises:
            ValueError: for texts or labels that cannot be right, and for options as `train` refuses them.
        """
        require(y is not None, "TextClassifier.fit", "y", "a label for each text", f"None: {Y_NEEDED}")
        texts, labels = _texts(X, "fit"), column_or_1d(y, warn=True)
        check_consistent_length(texts, labels)
        check_classification_targets(labels)
        classes = np.unique(labels)
        require(len(classes) > 1, "TextClassifier.fit", "y", "of two classes or more", f"{len(classes)} class")
        names = {str(label) for label in classes.tolist()}
        require(len(names) == len(classes), "TextClassifier.fit", "y", "labels that differ when they are written", "others")
        with tempfile.TemporaryDirectory(prefix="clm-fit-") as folder, _shown(self.verbose):
            rows = ({"text": text, "label": str(label)} for text, label in zip(texts, labels.tolist(), strict=True))
            data, output = Path(folder, "train.jsonl"), Path(folder, "output")
            data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
            config = TrainConfig(**self._given(), task="sequence", train=str(data), output=str(output))
            self.report_: Report = train_run(config, to_stderr if self.verbose else say_nothing)
            self._files = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
        self.classes_, self._classifier = classes, self._loaded()
        return self

    def predict(self, X: Sequence[str]) -> NDArray[Any]:
        """The best label of each text ``(n,)``."""
        texts, number = self._asked(X, "predict"), {str(label): i for i, label in enumerate(self.classes_.tolist())}
        found = self.classifier_.predict(texts, progress=self.verbose)
        return self.classes_[[number[str(prediction.label)] for prediction in found]]

    def predict_proba(self, X: Sequence[str]) -> NDArray[np.float32]:
        """Calibrated probabilities ``(n, classes)``, in the order of `classes_`."""
        texts, names = self._asked(X, "predict_proba"), self.classifier_.label_names
        order = [names.index(str(label)) for label in self.classes_.tolist()]
        return self.classifier_.predict_proba(texts, progress=self.verbose)[:, order]

    def save(self, folder: str | Path) -> None:
        """Writes what `train` leaves into a new or empty folder, for `Classifier.load` and the command line.

        Raises:
            ValueError: if something stands there.
        """
        check_is_fitted(self)
        folder = Path(folder)
        empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        require(empty, "TextClassifier.save", "folder", "a new or empty folder", repr(str(folder)))
        write_folder(folder, self._write)

    @property
    def classifier_(self) -> Classifier:
        check_is_fitted(self)
        if self._classifier is None:  # it is not pickled
            self._classifier = self._loaded()
        return self._classifier

    def _loaded(self) -> Classifier:
        method = METHODS[self.report_.config["method"]]
        with tempfile.TemporaryDirectory(prefix="clm-fit-") as folder, _shown(self.verbose):
            self._write(Path(folder))
            if method.whole_checkpoint:
                return Classifier.load(folder)
            return Classifier.load(self.report_.config["model"], Path(folder, method.leaves))

    def _write(self, folder: Path) -> None:
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    def _given(self) -> dict[str, Any]:
        """The options that are not the defaults; searches give numbers of numpy's."""
        options = {name: getattr(self, name) for name in DEFAULTS}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
        return {name: value for name, value in plain.items() if value != DEFAULTS[name]}

    def _asked(self, X: Sequence[str], function: str) -> list[str]:
        check_is_fitted(self)
        return _texts(X, function)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"_classifier": None} if "_classifier" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, True, False
        return tags


def _signature() -> inspect.Signature:
    """Every option by its name, as scikit-learn reads parameters."""
    own = inspect.signature(TextClassifier.__init__).parameters
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in DEFAULTS.items()
        if name != "model"
    ]
    return inspect.Signature([own["self"], own["model"], *options, own["verbose"]])


TextClassifier.__init__.__signature__ = _signature()  # type: ignore[attr-defined]


def _texts(X: Any, function: str) -> list[str]:
    place = f"TextClassifier.{function}"
    listed = not isinstance(X, (str, bytes)) and hasattr(X, "__len__") and np.ndim(X) == 1
    require(listed, place, "X", "a sequence of texts", brief(X))
    texts = list(X)
    for i, text in enumerate(texts):
        require(isinstance(text, str) and bool(text.strip()), place, f"X[{i}]", "a text that is not empty", brief(text))
    require(bool(texts), place, "X", "one text or more", "none")
    return texts


class _NoTerminal:
    """A stream on which nobody draws bars."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return False


@contextmanager
def _shown(verbose: bool) -> Iterator[None]:
    """Without bars and transformers' warnings, unless they are wanted."""
    if verbose:
        yield
        return
    stderr, bars, level = sys.stderr, logging.is_progress_bar_enabled(), logging.get_verbosity()
    sys.stderr = _NoTerminal(stderr)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        sys.stderr = stderr
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
