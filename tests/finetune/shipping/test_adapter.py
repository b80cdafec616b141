"""A LoRA run's folder in plain PEFT: the same scores, or a clear word before training and in the folder."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import PLAIN as OPTIONS
from tiny_task import save_model, write_data
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from clm_kernels.finetune import Classifier, TrainConfig, train

peft = pytest.importorskip("peft")

TEXTS = ["my refund", "where is the parcel please", "password"]
PLAIN = {
    ("bert", "cls"),
    ("albert", "cls"),
    ("modernbert", "mean"),
    ("modernbert", "cls"),
    ("llama", "last"),
    ("distilbert", "cls"),
}
OTHERS = {("bert", "mean"), ("bert", "max"), ("bert", "last"), ("llama", "mean")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(family, pooling) -> folder of a short run and what was said before it; made when asked for."""
    made = {}

    def of(family, pooling):
        if (family, pooling) not in made:
            folder, said = tmp_path_factory.mktemp("lora"), []
            config = TrainConfig(model=save_model(folder / "model", family, pad_token_id=0), **write_data(folder, count=12))
            options = OPTIONS | {"epochs": 1, "pooling": pooling, "method": "lora", "lora_rank": 2, "output": str(folder / "o")}
            train(replace(config, **options), said.append)
            made[family, pooling] = folder, said
        return made[family, pooling]

    return of


def in_plain_peft(folder):
    """As the folder's README says."""
    base = AutoModelForSequenceClassification.from_pretrained(folder / "model", config=AutoConfig.from_pretrained(folder / "o"))
    return probabilities(peft.PeftModel.from_pretrained(base, folder / "o").eval(), folder)


def probabilities(model, folder):
    tokens = AutoTokenizer.from_pretrained(folder / "o")(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**tokens).logits


def ours(folder):
    return probabilities(Classifier.load(folder / "o").model, folder)


@pytest.mark.parametrize(("family", "pooling"), sorted(PLAIN))
def test_plain_peft_gives_the_same(runs, family, pooling):
    folder, said = runs(family, pooling)
    torch.testing.assert_close(in_plain_peft(folder), ours(folder), rtol=1e-5, atol=1e-5)
    assert not any("plain PEFT" in line for line in said)
    card = (folder / "o" / "README.md").read_text()
    assert "PeftModel.from_pretrained" in card and "wrong scores" not in card and str(folder) not in card


def test_peft_alone_finds_the_base(runs):
    folder, _ = runs("bert", "cls")
    model = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder / "o", num_labels=3).eval()
    torch.testing.assert_close(probabilities(model, folder), ours(folder), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "pooling"), sorted(OTHERS))
def test_it_is_said_where_plain_peft_gives_others(runs, family, pooling):
    folder, said = runs(family, pooling)
    assert not torch.allclose(in_plain_peft(folder), ours(folder), rtol=1e-2, atol=1e-2)  # else the word would be wrong
    (line,) = [line for line in said if "plain PEFT" in line]
    assert "other scores" in line and "--onnx" in line
    first = next(i for i, line in enumerate(said) if re.search("epoch", line))
    assert said.index(line) < first
    assert "**Plain PEFT reads this folder and gives other, wrong scores:**" in (folder / "o" / "README.md").read_text()


def test_its_export_is_the_same_whatever_the_pooling(runs, tmp_path):
    for family, pooling in (("bert", "cls"), ("bert", "mean")):
        folder, _ = runs(family, pooling)
        classifier = Classifier.load(folder / "o")
        assert classifier.export(tmp_path / pooling) <= 1e-5
        assert (Path(tmp_path) / pooling / "clm_pooled.py").is_file() == (pooling == "mean")
        torch.testing.assert_close(
            probabilities(Classifier.load(tmp_path / pooling).model, folder), ours(folder), rtol=1e-5, atol=1e-5
        )
