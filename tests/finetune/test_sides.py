"""`train --bidirectional`: which layers of a decoder attend to both sides, through training, saving and predicting."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import FAST, silent
from tiny_task import byte_tokenizer, save_model, sentences, write_data

from clm_kernels import Delta, bidirectional_layers
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.files import read_rows
from clm_kernels.finetune.models import load
from clm_kernels.finetune.tasks import TASKS

WORDS = ["Anna", "lives", "in", "Rome"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A config without output: a tiny Llama of two layers, and words with tags."""
    folder = tmp_path_factory.mktemp("llama")
    model = save_model(folder / "model", "llama", made=byte_tokenizer(), vocab_size=360, pad_token_id=None)
    files = write_data(folder, sentences)
    return TrainConfig(model=model, **files, **FAST | {"epochs": 1, "pooling": "auto"})


def first_depends_on_last(classifier):
    """Whether the first word's probability changes with the last word."""
    found = classifier.predict([WORDS, [*WORDS[:-1], "Paris"]])
    return len({prediction.probability[0] for prediction in found}) == 2


@pytest.mark.parametrize("method", ["sparse", "lora", "head", "full"])
def test_what_was_trained_with_both_sides_predicts_with_both(method, llama, tmp_path):
    if method == "lora":
        pytest.importorskip("peft")
    for wanted, layers in (("none", range(0)), ("all", range(2)), ("upper half", range(1, 2)), ("0-0", range(1))):
        config = replace(llama, method=method, bidirectional=wanted, output=str(tmp_path / wanted))
        train(config, silent)
        classifier = Classifier.load(config.run.output)
        assert bidirectional_layers(classifier.model) == layers
        assert first_depends_on_last(classifier) == bool(layers)


def test_scores_are_those_of_the_model_that_predicts(llama, tmp_path):
    config = replace(llama, bidirectional="all", output=str(tmp_path / "o"), epochs=3)
    report = train(config, silent)
    rows = [row for _, row in read_rows(config.data.test)]
    found = list(Classifier.load(config.run.output).predict([row["tokens"] for row in rows]))
    words = [(tag, own) for row, prediction in zip(rows, found) for tag, own in zip(row["tags"], prediction.label)]
    assert sum(tag == own for tag, own in words) / len(words) == pytest.approx(report.test["accuracy"])


def test_export_says_where_windows_differ(tmp_path):
    folder = tmp_path / "mistral"
    model = save_model(folder / "model", "mistral", made=byte_tokenizer(), vocab_size=360, pad_token_id=None, sliding_window=4)
    config = TrainConfig(model=model, **write_data(folder, sentences), **FAST | {"epochs": 1, "pooling": "auto"})
    for wanted in ("none", "all"):
        train(replace(config, bidirectional=wanted, output=str(tmp_path / wanted)), silent)
    with pytest.warns(UserWarning, match="export: beyond 4 tokens, plain transformers' windows reach one token further"):
        Classifier.load(tmp_path / "all").export(tmp_path / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier.load(tmp_path / "none").export(tmp_path / "plain none")


def test_a_base_that_attends_to_both_sides_goes_on_so(llama, tmp_path):
    """By default; and a delta that was trained causal on it says so."""
    full = replace(llama, method="full", bidirectional="1-1", output=str(tmp_path / "base"))
    train(full, silent)
    for wanted, layers in (("auto", range(1, 2)), ("none", range(0))):
        config = replace(llama, model=full.run.output, bidirectional=wanted, output=str(tmp_path / wanted))
        train(config, silent)
        assert bidirectional_layers(Classifier.load(config.run.output).model) == layers
    causal, base = (
        Delta.load(tmp_path / "none" / "delta.safetensors"),
        load(full.run.output, TASKS["token"], ["a", "b", "c", "d"]),
    )
    with pytest.raises(ValueError, match=r"^Delta: the model must attend to both sides in no layer as in training, got 1 to 1$"):
        causal.apply(base.model)


def test_plain_transformers_gets_all_layers_or_none(llama, tmp_path):
    for wanted in ("none", "all"):
        train(replace(llama, bidirectional=wanted, output=str(tmp_path / wanted)), silent)
        Classifier.load(tmp_path / wanted).export(tmp_path / f"plain {wanted}")
        assert (Path(tmp_path) / f"plain {wanted}" / "model.safetensors").is_file()
    train(replace(llama, bidirectional="1-1", output=str(tmp_path / "some")), silent)
    with pytest.raises(
        ValueError,
        match=r"^export: the model must be one that attends to both sides in all layers or none, .* got layers 1 to 1$",
    ):
        Classifier.load(tmp_path / "some").export(tmp_path / "plain some")


def test_what_cannot_be_is_refused(llama, tmp_path):
    for wanted in ("both", "1", "1-", "-1-2"):
        with pytest.raises(ValueError, match=r"^train: bidirectional must be auto, none, all, upper half, or the first and last"):
            train(replace(llama, bidirectional=wanted, output=str(tmp_path / "o")), silent)
    with pytest.raises(ValueError, match=r"^bidirectional: layers must be .* 0 to 1"):
        train(replace(llama, bidirectional="1-2", output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("wanted", ["all", "0-1"])
def test_for_an_encoder_it_is_refused(base, tmp_path, wanted):
    told = "^train: bidirectional must be left out for BertForSequenceClassification, which is an encoder and attends to both sides already"
    with pytest.raises(ValueError, match=f"{told}, got {wanted!r}$"):
        train(replace(base, bidirectional=wanted, output=str(tmp_path / "o"), epochs=1), silent)
    assert not (tmp_path / "o").exists()
