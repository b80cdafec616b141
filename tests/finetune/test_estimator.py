"""`TextClassifier`: scikit-learn's own checks, and what an estimator is for: pipelines, searches, pickles."""

import json
import pickle
import sys
from pathlib import Path

import needs_datasets  # noqa: F401
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from tiny_task import FILLERS, PIECES, TOPICS, save_model, texts, write_jsonl

import clm_kernels as clm
from clm_kernels.finetune import Report, estimator
from clm_kernels.finetune.config import OPTIONS
from clm_kernels.finetune.models import load
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.strangers import read_json

WORDS = [*(word for words in TOPICS.values() for word in words), *FILLERS, *PIECES[2:]]
QUICK = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "select": "random", "pooling": "mean"}
ROWS = texts(48, 0)
X, Y = np.array([row["text"] for row in ROWS]), np.array([row["label"] for row in ROWS])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def fitted(model):
    return clm.TextClassifier(model, **QUICK).fit(X, Y)


class OfNumbers(clm.TextClassifier):
    """Takes tables of numbers, which scikit-learn's checks are made of, as texts of a word a number."""

    def fit(self, X, y):
        return super().fit(as_texts(X), y)

    def predict(self, X):
        return super().predict(as_texts(X))

    def predict_proba(self, X):
        return super().predict_proba(as_texts(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


def as_texts(table):
    table = np.asarray(table, dtype=float)
    table = table.reshape(len(table), -1).clip(-1, 1)
    return [" ".join(WORDS[(3 * column + int(value + 1)) % len(WORDS)] for column, value in enumerate(row)) for row in table]


def untrained(config, say):
    """In place of `train`: a whole checkpoint with a head that nobody trained, which is what most checks need."""
    torch.manual_seed(config.run.seed)
    labels = sorted({row["label"] for row in map(json.loads, Path(config.data.train).read_text().splitlines())})
    loaded = load(config.data.model, TASKS["sequence"], labels, "mean")
    loaded.model.save_pretrained(config.run.output)
    loaded.tokenizer.save_pretrained(config.run.output)
    return Report(config.replace(method="full").options(), {}, labels, [], 0, 0, "accuracy")


NUMBERS = "of columns of numbers, which texts have not"
LEFT_OUT = {  # of scikit-learn's checks, and why
    "check_n_features_in_after_fitting": NUMBERS,
    "check_n_features_in": NUMBERS,
    "check_estimators_nan_inf": NUMBERS,
    "check_complex_data": NUMBERS,
    "check_estimators_empty_data_messages": NUMBERS,
    "check_estimator_sparse_tag": NUMBERS,
    "check_estimator_sparse_array": NUMBERS,
    "check_estimator_sparse_matrix": NUMBERS,
    "check_fit1d": NUMBERS,
    "check_fit2d_predict1d": NUMBERS,
    "check_array_api_input": NUMBERS,
    "check_classifiers_train": "of a score on clouds of points, of which these words tell nothing",
    "check_estimators_partial_fit_n_features": "there is no partial_fit",
}
CHECKS = list(estimator_checks.estimator_checks_generator(OfNumbers()))
NAMES = [estimator_checks._check_name(check) for _, check in CHECKS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "check", [pytest.param(check, id=name) for (_, check), name in zip(CHECKS, NAMES) if name not in LEFT_OUT]
)
def test_scikit_learns_own_check(check, model, monkeypatch):
    monkeypatch.setattr(estimator, "train_run", untrained)
    check(OfNumbers(model, max_length=32))


def test_the_checks_that_are_left_out_are_there():
    assert set(LEFT_OUT) < set(NAMES) and len(set(NAMES) - set(LEFT_OUT)) > 30


def test_without_the_wrapping_it_says_that_it_takes_texts():
    tags = clm.TextClassifier().__sklearn_tags__().input_tags
    assert tags.string and tags.one_d_array and not tags.two_d_array


def test_it_trains_as_the_recipe_does(fitted, model, tmp_path):
    output = tmp_path / "out"
    config = clm.TrainConfig(model=model, train=write_jsonl(tmp_path / "train.jsonl", ROWS), output=str(output), **QUICK)
    report = clm.train(config, lambda line: None)
    assert fitted.report_.history[-1]["loss"] == report.history[-1]["loss"] and fitted.report_.best["accuracy"] > 0.9
    with_file = clm.Classifier.load(output)
    assert fitted.predict_proba(X).tolist() == with_file.predict_proba(list(X)).tolist()
    assert fitted.predict(X).tolist() == [prediction.label for prediction in with_file.predict(list(X))]
    assert fitted.score(X, Y) > 0.9


def test_what_is_saved_is_read_by_the_program(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    assert read_json(tmp_path / "saved" / "report.json", "test", "the report")["labels"] == fitted.classes_.tolist()
    assert clm.Classifier.load(tmp_path / "saved").predict_proba(list(X)).tolist() == fitted.predict_proba(X).tolist()
    with pytest.raises(ValueError, match=r"^TextClassifier.save: folder must be a new or empty folder"):
        fitted.save(tmp_path / "saved")


def test_a_pickle_predicts_the_same_and_a_clone_nothing(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    assert again._classifier is None  # the files stand for it
    assert again.predict_proba(X[:5]).tolist() == fitted.predict_proba(X[:5]).tolist()
    assert clone(fitted).get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        clone(fitted).predict(X)


def test_it_works_in_a_pipeline_and_a_search(model):
    shouting = [text.upper() for text in X]
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = make_pipeline(lower, clm.TextClassifier(model, **QUICK | {"epochs": 1}))
    grid = {"textclassifier__learning_rate": np.array([10, 1e-2])}
    search = GridSearchCV(pipeline, grid, cv=2, refit=False, error_score="raise").fit(shouting, Y)
    worse, better = search.cv_results_["mean_test_score"]
    assert worse < better and search.best_params_ == {"textclassifier__learning_rate": 1e-2}


def test_labels_keep_their_type_and_order(model, monkeypatch):
    monkeypatch.setattr(estimator, "train_run", untrained)
    numbers = np.array([10, 9, 100])[np.arange(len(X)) % 3]
    made = clm.TextClassifier(model).fit(X, numbers)
    assert made.classes_.tolist() == [9, 10, 100] and made.classifier_.label_names == ["10", "100", "9"]
    probabilities = made.predict_proba(X)
    assert made.predict(X).tolist() == made.classes_[probabilities.argmax(1)].tolist()
    assert probabilities[:, 0].tolist() == made.classifier_.predict_proba(list(X))[:, 2].tolist()


def test_parameters_are_the_options_of_train():
    names = set(clm.TextClassifier().get_params())
    assert names == (set(OPTIONS) - estimator.OF_FILES) | {"verbose"}
    assert set(OPTIONS) > estimator.OF_FILES and not [
        name for name in names if "column" in name or name in ("delimiter", "label_separator")
    ]
    assert clm.TextClassifier("m", epochs=2, density=0.5)._given() == {"model": "m", "epochs": 2, "density": 0.5}
    with pytest.raises(TypeError, match=r"options must be among .*, got 'epoch'"):
        clm.TextClassifier("m", epoch=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", r"X must be a sequence of texts, got 'one text'"),
        ([["a", "b"]], r"X must be a sequence of texts, got \["),
        (["a", " "], r"X\[1\] must be a text that is not empty, got ' '"),
        (["a", 3.5], r"X\[1\] must be a text that is not empty, got 3.5"),
        ([], r"X must be one text or more, got none"),
    ],
)
def test_what_is_no_text_is_refused(given, message):
    with pytest.raises(ValueError, match=rf"^TextClassifier.fit: {message}"):
        clm.TextClassifier().fit(given, ["x"] * len(given))


def test_it_is_silent_unless_asked(model, monkeypatch, capfd):
    monkeypatch.setattr(estimator, "train_run", untrained)
    monkeypatch.setattr(estimator.logging, "_tqdm_active", True)  # which the command line switches off
    for verbose in (False, True):
        clm.TextClassifier(model, verbose=verbose).fit(X, Y).predict(X)
        assert ("predict: 100%" in capfd.readouterr().err) == verbose


def test_the_trainer_sees_a_terminal_only_if_asked(model, monkeypatch):
    seen = []
    monkeypatch.setattr(estimator, "train_run", lambda config, say: seen.append(sys.stderr.isatty()) or untrained(config, say))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for verbose in (False, True):
        clm.TextClassifier(model, verbose=verbose).fit(X, Y)
    assert seen == [False, True] and sys.stderr.isatty()
