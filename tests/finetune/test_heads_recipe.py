"""`train` with a decoder: a head on the last token, words of byte-level tokenizers, and texts in a template."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from models import build
from tiny_runs import FAST, PLAIN, silent
from tiny_task import byte_tokenizer, save_model, sentences, texts, tokenizer, write_data
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction, PreTrainedTokenizerFast

from clm_kernels import Delta
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.classifier import Classifier
from clm_kernels.finetune.encode import IGNORED
from clm_kernels.finetune.files import read_rows
from clm_kernels.finetune.models import load_tokenizer, pooling_for
from clm_kernels.finetune.split import Split
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.templates import TEXT, check_template, fill
from clm_kernels.models.pooling import set_pooling

TEMPLATE = "please {text} now"
SMALL = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, "vocab_size": 360}
LEARNING = {"method": "full", "epochs": 10, "learning_rate": 5e-3, "pooling": "auto"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A config without output: a tiny Llama, which pads with the token that ends its texts, on the left."""
    folder = tmp_path_factory.mktemp("llama")
    made = byte_tokenizer()
    assert len(made) == 360 and made.pad_token is None
    model = save_model(folder / "model", "llama", made=made, **SMALL)
    return TrainConfig(model=model, **write_data(folder), **PLAIN | LEARNING)


@pytest.fixture(scope="module")
def finished(llama, tmp_path_factory):
    config = replace(llama, output=str(tmp_path_factory.mktemp("run") / "out"), template=TEMPLATE)
    return config, train(config, silent)


def probabilities(model, tokenizer, rows, side="right"):
    """Of a head that reads the end of each text."""
    tokens = tokenizer(rows, padding=True, return_tensors="pt", padding_side=side)
    with torch.no_grad():
        hidden = model.base_model(**tokens).last_hidden_state
        last = [int(mask.nonzero()[-1]) for mask in tokens["attention_mask"]]
        return model.score(hidden[torch.arange(len(rows)), last]).softmax(-1)


def loss(config, model, tokenizer):
    """Of the test data in the template."""
    rows = [row for _, row in read_rows(config.data.test)]
    found = probabilities(model, tokenizer, [config.data.template.replace(TEXT, row["text"]) for row in rows])
    right = [model.config.label2id[row["label"]] for row in rows]
    return float(-found[torch.arange(len(rows)), right].log().mean())


def assert_predicts(classifier, rows, expected):
    """Calibrated, which is by a power of each probability."""
    expected = (expected.log() / classifier.calibration.temperature).softmax(-1)
    found = list(classifier.predict(rows, batch_size=5))
    assert [p.label for p in found] == [classifier.label_names[int(i)] for i in expected.argmax(1)]
    torch.testing.assert_close(torch.tensor([p.probability for p in found]), expected.max(1).values)


def test_a_decoder_learns_and_predicts_by_the_last_token_of_the_template(finished, tmp_path):
    config, report = finished
    assert report.best["accuracy"] > 0.9 and report.test["accuracy"] > 0.8
    classifier = Classifier.load(config.run.output)
    rows = [row["text"] for row in texts(12, 5)]
    filled = [f"please {row} now" for row in rows]
    model = AutoModelForSequenceClassification.from_pretrained(config.run.output, trust_remote_code=True).eval()
    plain = AutoTokenizer.from_pretrained(config.run.output)
    assert (plain.pad_token, plain.padding_side) == ("</s>", "right") and plain(rows)["input_ids"][0][-1] == plain.pad_token_id
    assert report.test["loss"] == pytest.approx(loss(config, model, plain), rel=1e-4)
    assert_predicts(classifier, rows, probabilities(model, plain, filled))
    with torch.no_grad():
        for side in ("left", "right"):
            tokens = plain(filled, padding=True, return_tensors="pt", padding_side=side)
            torch.testing.assert_close(model(**tokens).logits.softmax(-1), probabilities(model, plain, filled))
    assert model.config.clm_template == classifier.template == TEMPLATE
    classifier.export(tmp_path / "plain")
    assert_predicts(Classifier.load(tmp_path / "plain"), rows, probabilities(model, plain, filled))


def test_a_delta_keeps_pooling_and_template(llama, finished, tmp_path):
    """Also when the base it is for was trained in another template."""
    base = finished[0].run.output
    other = "my {text}"
    config = replace(llama, model=base, output=str(tmp_path / "o"), method="sparse", pooling="max", template=other, epochs=1)
    report = train(config, silent)
    recipe = Delta.load(tmp_path / "o" / "delta.safetensors").recipe
    assert (recipe.pooling, recipe.template, report.config["template"]) == ("max", other, other)
    classifier = Classifier.load(tmp_path / "o")
    assert (classifier.template, classifier.model.config.clm_pooling) == (other, "max")
    rows = [row["text"] for row in texts(12, 5)]
    tokens = classifier.tokenizer([f"my {row}" for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = classifier.model.base_model(**tokens)
        assert hidden.last_hidden_state.stride(1) == 0  # every position holds the pooled vector
        assert_predicts(classifier, rows, classifier.model(**tokens).logits.softmax(-1))
    train(replace(config, output=str(tmp_path / "without"), template=TEXT), silent)
    assert Classifier.load(tmp_path / "without").template == TEXT


def test_a_decoder_tags_words(llama, tmp_path):
    config = replace(llama, **write_data(tmp_path, sentences), output=str(tmp_path / "o"), method="sparse", **FAST)
    assert train(config, silent).test["f1"] > 0.9
    words = ["Anna", "Smith", "lives", "in", "Rome"]
    (found,) = Classifier.load(tmp_path / "o").predict([words])
    assert found.label == ["B-PER", "I-PER", "O", "O", "B-LOC"]


def test_words_get_the_tokens_that_they_have_in_a_text(tmp_path):
    """Whether the tokenizer adds the space itself, as ours does after loading, or cannot."""
    made = byte_tokenizer()
    made.save_pretrained(tmp_path)
    words = ["Paris", "refund", "refunding"]
    expected = made(" Paris refund refunding")["input_ids"]
    assert made([words], is_split_into_words=True)["input_ids"][0] != expected
    split = Split("file", [words], [["A", "B", "A"]], ["line 1"])
    for taught in (made, load_tokenizer(tmp_path, TASKS["token"])):
        row = TASKS["token"].encode(split, ["A", "B"], taught, 16, sort=False).dataset[0]
        assert row["input_ids"] == expected
        assert [label for label in row["labels"] if label != IGNORED] == [0, 1, 0] and len(expected) > 4
    load_tokenizer(tmp_path, TASKS["token"]).save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again")([words], is_split_into_words=True)["input_ids"][0] == expected
    assert (
        TASKS["token"].encode(split, ["A", "B"], tokenizer(), 16, sort=False).dataset[0]["input_ids"][1:-1]
        == (tokenizer()("Paris refund refunding", add_special_tokens=False)["input_ids"])
    )


def test_a_tokenizer_that_adds_the_space_gets_none():
    """SentencePiece as Llama 2 has it, which would take a second space for a word."""
    made = Tokenizer(models.Unigram([("?", 0.0), ("▁", -9.0), ("▁Paris", -1.0), ("▁in", -1.0)], unk_id=0))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    split = Split("file", [["in", "Paris"]], [["A", "B"]], ["line 1"])
    encoded = TASKS["token"].encode(
        split, ["A", "B"], PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?"), 16, sort=False
    )
    assert encoded.dataset[0]["input_ids"] == [3, 2] and encoded.first_tokens == [{0: 0, 1: 1}]


def test_words_of_a_decoder_that_were_cut_off_count_as_missed():
    split = Split("file", [["Anna", "Smith", "meets", "Bob"]], [["B-PER", "I-PER", "O", "B-PER"]], ["line 1"])
    tags = ["B-PER", "I-PER", "O"]
    encoded = TASKS["token"].encode(split, tags, byte_tokenizer(), 4, sort=False)  # three words and </s>
    assert encoded.cut == 1
    labels = np.array(encoded.dataset["labels"])
    perfect = TASKS["token"].score(encoded, tags)(EvalPrediction(np.where(labels == IGNORED, 2, labels), labels))
    assert (perfect["accuracy"], perfect["recall"], perfect["precision"]) == (3 / 4, 1 / 2, 1)


@pytest.mark.parametrize("make", [byte_tokenizer, tokenizer])
def test_a_template_stays_whole_where_the_text_is_cut(make):
    made = make()
    rows = ["my refund please", "parcel", "the invoice is about a parcel with it now"]
    whole = [made(f"please {row} with courier")["input_ids"] for row in rows]
    split = Split("file", rows, ["a", "b", "a"], ["line 1", "line 2", "line 3"])
    template, limit, alone = "please {text} with courier", len(whole[0]), len(made("please with courier")["input_ids"])
    encoded = TASKS["sequence"].encode(split, ["a", "b"], made, limit, False, template)
    found = encoded.dataset["input_ids"][:]
    assert found[:2] == whole[:2] and encoded.cut == 1
    assert found[2] == made("please the invoice is with courier")["input_ids"] and len(found[2]) == limit
    for i, row in enumerate(rows):
        assert TASKS["sequence"].encode(split, None, made, 99, False, template).dataset["input_ids"][i] == whole[i]
        assert TASKS["sequence"].encode(split, None, made, 99, False).dataset["input_ids"][i] == made(row)["input_ids"]
    with pytest.raises(ValueError, match=f"encode: max_length must be more tokens than the template takes, got {alone}"):
        fill(template, rows, made, alone)
    assert fill(template, rows[1:2], made, alone + 1) == (["please parcel with courier"], 0)


def test_a_text_is_cut_again_where_the_cut_makes_tokens():
    """``zzzs`` is one unknown token, but ``pleases`` is two."""
    made, rows = tokenizer(), ["my refund please zzz"]
    assert len(made("my refund please zzzs")["input_ids"]) == len(made("my refund pleases")["input_ids"]) == 6
    assert fill("{text}s", rows, made, 5) == (["my refunds"], 1)
    made, rows = byte_tokenizer(), ["refund-Paris!? " * 6]
    assert all(len(made(fill("a {text} b", rows, made, limit)[0])["input_ids"][0]) <= limit for limit in range(6, 40))


@pytest.mark.parametrize("template", ["", "label it", "{text} or {text}", "{ text }"])
def test_templates_that_do_not_hold_one_text(template, llama):
    with pytest.raises(ValueError, match=r"train: template must be a text that holds \{text\} once, got"):
        replace(llama, output="o", template=template).check()
    check_template("{a} {text}{")


def test_words_are_tagged_without_a_template(llama, tmp_path):
    config = replace(llama, **write_data(tmp_path, sentences), output=str(tmp_path / "o"), template=TEMPLATE)
    with pytest.raises(ValueError, match=r"template must be '\{text\}' for token classification.*, got 'please \{text\} now'"):
        train(config, silent)
    assert not (tmp_path / "o").exists()


def test_auto_pooling(llama, tmp_path):
    assert pooling_for(llama.data, TASKS["sequence"]) == "last"
    assert pooling_for(llama.data, TASKS["token"]) == "native"
    assert pooling_for(replace(llama, pooling="native").data, TASKS["sequence"]) == "native"
    for family, pooling in (("bert", "native"), ("gpt2", "last"), ("opt", "last"), ("gemma3", "last"), ("modernbert", "native")):
        build(family).save_pretrained(tmp_path / family)
        assert pooling_for(replace(llama, model=str(tmp_path / family)).data, TASKS["sequence"]) == pooling
    set_pooling(build("llama"), "mean").model.save_pretrained(tmp_path / "mean")
    assert pooling_for(replace(llama, model=str(tmp_path / "mean")).data, TASKS["sequence"]) == "mean"


def test_a_tokenizer_without_anything_to_pad_with(llama, tmp_path):
    made = byte_tokenizer()
    made.eos_token = None
    made.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="load: the tokenizer must be one with a pad_token or an eos_token, got neither"):
        load_tokenizer(tmp_path, TASKS["sequence"])


def test_a_padding_token_that_the_model_does_not_know(llama, tmp_path):
    made = byte_tokenizer()
    made.add_special_tokens({"pad_token": "<pad>"})
    config = replace(llama, model=save_model(tmp_path / "model", "llama", made=made, **SMALL), output=str(tmp_path / "o"))
    with pytest.raises(ValueError, match="pad token '<pad>' must be one of the model's 360 embedding rows, got 360"):
        train(config, silent)
