"""The small decoder that benchmarks are run on, far smaller still: what is cached, resumed, and read again by the recipe."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import FAST, assert_same, silent
from tiny_task import sentences, texts, write_data, write_jsonl
from transformers import Trainer

from benchmarks.decoder_model import RECORD, Decoder, blank, pretrained, texts_of, tokenizer_for
from benchmarks.tasks.tasks import TASKS
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.models import load, load_tokenizer
from clm_kernels.finetune.tasks import TASKS as KNOWN

TINY = Decoder(
    vocabulary=320, hidden=32, layers=2, heads=2, key_value_heads=1, intermediate=48, positions=64, length=16, batch=4,
    learning_rate=5e-3,
)  # fmt: skip
TEXTS = [row["text"] for row in texts(120, 0)] + [" ".join(row["tokens"]) for row in sentences(60, 0)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made(cache):
    return pretrained(TINY, TEXTS, TEXTS[:30], cache)


def test_it_has_learnt_and_says_how_much(made):
    record = json.loads((made / RECORD).read_text())
    assert record["pieces"] == TINY.vocabulary
    assert record["steps"] == TINY.epochs * math.ceil(record["tokens"] / TINY.length / TINY.batch)
    before = math.log(record["pieces"])  # of a model that knows nothing
    assert record["loss"] < 0.7 * before
    assert not (made / "checkpoints").exists()


def test_it_is_made_once_for_what_shapes_it(made, cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("trains again")

    monkeypatch.setattr(Trainer, "train", refuse)
    assert pretrained(TINY, TEXTS, [], cache) == made
    for decoder, of in ((replace(TINY, epochs=3), TEXTS), (TINY, TEXTS[1:])):
        with pytest.raises(RuntimeError, match="trains again"):
            pretrained(decoder, of, TEXTS[:30], cache)


def test_an_interrupted_pretraining_goes_on_bit_for_bit(made, tmp_path, monkeypatch):
    original, count = Trainer.training_step, [0]

    def training_step(self, *args, **kwargs):
        count[0] += 1
        if count[0] == 20:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            pretrained(TINY, TEXTS, TEXTS[:30], tmp_path)
    again = pretrained(TINY, TEXTS, TEXTS[:30], tmp_path)
    record, whole = (json.loads((folder / RECORD).read_text()) for folder in (again, made))
    assert record["resumed"] and not whole["resumed"]
    assert record["loss"] == whole["loss"]
    assert_same(load_file(again / "model.safetensors"), load_file(made / "model.safetensors"))


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_the_recipe_reads_the_same_ids(made, task):
    tokenizer, read = tokenizer_for(TEXTS, TINY), load_tokenizer(made, KNOWN[task])
    assert [read(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    words = read([text.split(" ") for text in TEXTS], is_split_into_words=True)["input_ids"]
    assert words == [tokenizer(text)["input_ids"] for text in TEXTS]
    loaded = load(made, KNOWN[task], ["a", "b", "c"])
    assert {name.split(".")[0] for name in loaded.missing} == {"score"}
    assert loaded.tokenizer.pad_token_id == loaded.model.config.pad_token_id != loaded.tokenizer.eos_token_id


def test_what_comes_later_changes_nothing_before(made):
    """A causal language model: bidirectional attention is what the comparison turns on."""
    tokenizer = tokenizer_for(TEXTS, TINY)
    model = blank(TINY, tokenizer).eval()
    first, second = (torch.tensor([tokenizer(f"my refund is {word}")["input_ids"]]) for word in ("late", "here"))
    same = min(i for i, (a, b) in enumerate(zip(first[0], second[0])) if a != b)
    outputs = [model(ids).logits[0] for ids in (first, second)]
    assert torch.equal(outputs[0][:same], outputs[1][:same]) and same > 2
    assert not torch.equal(outputs[0][same], outputs[1][same])


@pytest.mark.parametrize("method", ["sparse", "lora", "full", "head"])
def test_every_method_trains_it(made, tmp_path, method):
    config = TrainConfig(model=str(made), output=str(tmp_path / "o"), **write_data(tmp_path, sentences))
    config = replace(config, **FAST | {"epochs": 2, "max_length": 32})
    report = train(config.replace(method=method), silent)
    assert report.test["accuracy"] > 0.6
    (prediction,) = Classifier.load(config.run.output).predict([["Anna", "Smith", "lives", "in", "Rome"]])
    assert len(prediction.label) == 5


def test_texts_are_those_of_the_named_part(tmp_path, monkeypatch):
    monkeypatch.setenv("CLM_KERNELS_DATA", str(tmp_path))
    for task in TASKS.values():
        (tmp_path / task.name).mkdir()
        for seed, part in enumerate(("train", "test")):
            write_jsonl(tmp_path / task.name / f"{part}.jsonl", (texts if task.kind == "sequence" else sentences)(2, seed))
    found = texts_of("train")
    assert len(found) == 2 * len(TASKS) and all(isinstance(text, str) for text in found)
    assert texts(2, 0)[0]["text"] in found and " ".join(sentences(2, 0)[0]["tokens"]) in found
    with pytest.raises(ValueError, match=r"decoder_model: banking77 must be in .*, got no validation\.jsonl"):
        texts_of("validation")
