"""`Classifier` in Python: labels and probabilities of one text, of many, and of words; batches and their progress."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_runs import FAST, base, finished, silent  # noqa: F401
from tiny_task import save_model, sentences, write_data

import clm_kernels as clm
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.artifacts import RUN
from clm_kernels.finetune.classifier import Classifier

TEXTS = ["where is my parcel", "login", "please a refund with it now", "my password"]


@pytest.fixture(scope="module")
def classifier(finished):  # noqa: F811
    return clm.Classifier.load(finished[0].run.output)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tags")
    config = TrainConfig(model=save_model(folder / "model"), **write_data(folder, sentences), **FAST | {"pooling": "auto"})
    train(config.replace(output=str(folder / "out"), select="random", epochs=1, max_length=8), silent)
    return clm.Classifier.load(folder / "out")


def test_probabilities_are_those_of_the_predictions(classifier):
    found = classifier.predict_proba(TEXTS)
    assert found.shape == (4, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    predictions = list(classifier.predict(TEXTS))
    assert list(classifier.classes_[found.argmax(1)]) == [prediction.label for prediction in predictions]
    assert found.max(1).tolist() == [prediction.probability for prediction in predictions]


def test_they_are_calibrated(classifier):
    temperature = classifier.calibration.temperature
    assert temperature != 1
    batch = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    logits = classifier.model(**batch.to(classifier.model.device)).logits.detach().cpu().double()
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), (logits / temperature).softmax(-1), atol=1e-5)


def test_classes_are_an_array_in_the_order_of_the_outputs(classifier):
    assert isinstance(classifier.classes_, np.ndarray) and classifier.classes_.tolist() == ["access", "billing", "delivery"]


def test_one_text_alone_and_none(classifier):
    alone = classifier.predict_proba(TEXTS[0])
    assert alone.shape == (3,)
    np.testing.assert_allclose(alone, classifier.predict_proba(TEXTS)[0], atol=1e-6)
    assert classifier.predict_proba([]).shape == (0, 3) and list(classifier.predict([])) == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_neither_order_nor_result(classifier, batch_size):
    np.testing.assert_allclose(classifier.predict_proba(TEXTS, batch_size), classifier.predict_proba(TEXTS), atol=1e-5)


def test_an_array_of_texts_will_do(classifier):
    assert classifier.predict_proba(np.array(TEXTS)).tolist() == classifier.predict_proba(TEXTS).tolist()


@pytest.mark.parametrize("texts", ["", " ", 3, b"login", {"a": 1}, ["login", ["a", "b"]], [3], [None], [float("nan")], ["a", ""]])
def test_what_is_no_text_is_refused_by_name(classifier, texts):
    for ask in (classifier.predict, classifier.predict_proba):
        with pytest.raises(
            ValueError, match=rf"^{ask.__name__}: texts(\[\d\])? must be a text (that is not empty|or a list of texts), got"
        ):
            ask(texts)
        with pytest.raises(ValueError, match=rf"^{ask.__name__}: batch_size must be a whole number from 1 on, got 0"):
            ask(TEXTS, batch_size=0)


def test_a_generator_will_do(classifier):
    assert [one.label for one in classifier.predict(text for text in TEXTS)] == [one.label for one in classifier.predict(TEXTS)]


def test_a_tagger_takes_words_and_lines_of_them(tagger):
    words, line, tuple_ = tagger.predict([["anna", "lives"], "anna  lives", ("anna", "lives")])
    assert words == line == tuple_
    for texts in ("", [" "], [[]], [["anna", 3]], [["anna", " "]]):
        with pytest.raises(ValueError, match="must be a list of words or a text that is not empty"):
            tagger.predict(texts)


class Said(logging.Handler):
    """What transformers says inside the ``with`` block, whatever a command before has told it."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        self._before = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_warning()
        logging.getLogger("transformers").addHandler(self)
        return self.lines

    def __exit__(self, *raised):
        logging.getLogger("transformers").removeHandler(self)
        transformers.logging.set_verbosity(self._before)


def test_a_head_that_the_delta_fills_is_no_warning_and_others_stay(finished, tmp_path):  # noqa: F811
    config = finished[0]
    delta = Path(config.run.output) / "delta.safetensors"
    with Said() as lines:
        clm.Classifier.load(config.data.model, delta)
    assert lines == []
    folder = Path(shutil.copytree(config.data.model, tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"further.weight": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    with Said() as lines:
        clm.Classifier.load(folder, delta)
    assert len(lines) == 1 and "further.weight" in lines[0] and "MISSING" not in lines[0] and "Consider training" not in lines[0]


def test_windows_of_a_long_text_are_no_warning(classifier):
    with Said() as lines:
        list(classifier.predict(["parcel " * 2000], long="window"))
    assert lines == []


def test_words_have_a_row_each_and_cut_off_ones_none(tagger):
    short, long = ["anna", "lives", "in", "rome"], ["bob", "lives", "in", "paris", "now", "with", "anna", "smith"]
    four, eight = tagger.predict_proba([short, long])
    assert four.shape == (4, len(tagger.classes_)) and eight.shape == (8, len(tagger.classes_))
    np.testing.assert_allclose(four.sum(1), 1, atol=1e-6)
    assert np.isnan(eight[6:]).all() and not np.isnan(eight[:6]).any()
    tags = [prediction.label for prediction in tagger.predict([short, long])]
    assert tagger.classes_[four.argmax(1)].tolist() == tags[0]
    assert [*tagger.classes_[eight[:6].argmax(1)], None, None] == tags[1]


def test_a_line_of_words_is_one_text(tagger):
    assert tagger.predict_proba("anna lives in rome").shape == (4, len(tagger.classes_))


def test_progress_counts_batches_as_transformers_does(classifier, capfd, monkeypatch):
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)  # which the command line switches off
    list(classifier.predict(TEXTS, 2, progress=True))
    assert "predict: 100%" in (shown := capfd.readouterr().err) and "2/2" in shown
    classifier.predict_proba(TEXTS, 2)
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", False)
    list(classifier.predict(TEXTS, 2, progress=True))
    assert capfd.readouterr().err == ""


def test_folders_of_something_else_say_what_they_are(tmp_path):
    for name in ("several", "onnx"):
        (tmp_path / name).mkdir()
    (tmp_path / "several" / RUN).write_text('{"tasks": {"intents": {}, "spans": {}}}')
    with pytest.raises(ValueError, match=r"the folder of one task, got one with '.*several/intents' or '.*several/spans'"):
        Classifier.load(tmp_path / "several")
    for name in ("config.json", "model.onnx"):
        (tmp_path / "onnx" / name).write_text("{}")
    with pytest.raises(ValueError, match=r"an ONNX export.*onnx_client.py"):
        Classifier.load(tmp_path / "onnx")
