"""What an export holds of code, and when it needs none."""

import pytest
import torch
from command_line import run
from models import build
from tiny_task import byte_tokenizer, tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clm_kernels.finetune import Classifier
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.models.pooling import set_pooling
from clm_kernels.models.portable import save_portable

TEXTS = ["where is my parcel", "refund", "the login is please with a courier now about it"]


def classifier(family, pooling, made=None, **changes):
    model = build(family, **changes).eval()
    set_pooling(model, pooling)
    return Classifier(model, made or tokenizer(), TASKS["sequence"], 24)


def padded(made):
    made.pad_token, made.padding_side = made.eos_token, "right"
    return made


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        ("llama", "last"),
        ("gpt2", "last"),
        ("roberta", "cls"),
        ("bert", "cls"),
        ("albert", "cls"),
        ("modernbert", "mean"),
        ("bert", "native"),
    ],
)
def test_no_code_where_the_own_class_does_the_same(family, pooling, tmp_path):
    made = classifier(family, pooling, **({"pad_token_id": 0} if family == "roberta" else {}))
    expected = list(made.predict(TEXTS))
    made.export(tmp_path, code=False)
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in (tmp_path / "config.json").read_text()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False).eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = plain(**tokens).logits.softmax(-1).max(1)
    assert found.values.tolist() == pytest.approx([one.probability for one in expected], rel=1e-6)
    assert [plain.config.id2label[int(i)] for i in found.indices] == [one.label for one in expected]
    assert list(Classifier.load(tmp_path).predict(TEXTS)) == expected


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("llama", "mean"), ("gpt2", "max"), ("roberta", "last")])
def test_no_code_is_refused_where_it_does_not(family, pooling, tmp_path):
    made = classifier(family, pooling)
    with pytest.raises(
        ValueError, match=f"^export: code must be True for pooling '{pooling}', as .*ForSequenceClassification by itself"
    ):
        made.export(tmp_path / "o", code=False)
    assert not (tmp_path / "o").exists() and made.model.config.clm_pooling == pooling


def test_no_code_is_refused_where_texts_end_in_the_padding_token(tmp_path):
    made = classifier("llama", "last", padded(byte_tokenizer()), vocab_size=380, pad_token_id=1)
    with pytest.raises(ValueError, match="export: code must be True for pooling 'last'"):
        made.export(tmp_path, code=False)


def test_the_code_says_what_it_is(tmp_path):
    made = classifier("bert", "max").model
    made.config.id2label, made.config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    save_portable(made, tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    done = run("export", "--model", tmp_path / "model", "--output", tmp_path / "o")
    assert done.exit_code == 0 and "clm_pooled.py in it is code" in done.stdout and "trust_remote_code=True" in done.stdout
    first = (tmp_path / "o" / "clm_pooled.py").read_text().splitlines()[0]
    assert first.startswith("# This file is code that transformers runs when this folder is loaded with trust_remote_code=True")
    refused = run("export", "--model", tmp_path / "model", "--output", tmp_path / "p", "--no-code")
    assert refused.exit_code == 2 and "export: code must be True" in refused.stderr and not (tmp_path / "p").exists()
