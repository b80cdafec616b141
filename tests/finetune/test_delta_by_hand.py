"""A Delta that is saved as the README's Python shows, without `train`: read by `Classifier.load` and by ``predict``."""

import json
from pathlib import Path

import pytest
import torch
from command_line import run
from models import CONFIGS, select
from tiny_task import byte_tokenizer, save_model, sentences, texts, tokenizer
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, BertForMaskedLM

import clm_kernels as clm
from clm_kernels.finetune.classifier import Classifier

AUTO = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}
NAMES = {"sequence": ["access", "billing", "delivery"], "token": ["B-LOC", "B-PER", "I-PER", "O"]}
SMALL = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, "vocab_size": 360}


def save_base(folder, family):
    return save_model(folder, "llama", made=byte_tokenizer(), **SMALL) if family == "llama" else save_model(folder)


def encoded(reader, task, row):
    """Ids with labels as a caller makes them, and for words the place of each one's first token."""
    if task == "sequence":
        return reader(row["text"], return_tensors="pt"), torch.tensor([NAMES[task].index(row["label"])]), None
    words = [f" {word}" for word in row["tokens"]] if reader.eos_token == "</s>" else row["tokens"]
    batch = reader([words], is_split_into_words=True, return_tensors="pt")
    places, first = batch.word_ids(0), {}
    for place, word in enumerate(places):
        first.setdefault(word, place)
    labels = torch.full_like(batch["input_ids"], -100)
    for word, tag in enumerate(row["tags"]):
        labels[0, first[word]] = NAMES[task].index(tag)
    return batch, labels, [first[word] for word in range(len(words))]


def trained(base, task, pooling, layers, named, head=True):
    """As the README has it: loaded, pooled, patched, trained text by text."""
    torch.manual_seed(0)
    count = len(NAMES[task])
    labels = {"id2label": dict(enumerate(NAMES[task]))} if named else {"num_labels": count}
    model = AUTO[task].from_pretrained(base, **labels)
    if pooling:
        clm.set_pooling(model, pooling)
    if layers:
        clm.bidirectional(model, layers)
    handle = clm.patch(model, select(model, "columns", where="layer"), biases=True, norms=True, head=head)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
    reader = AutoTokenizer.from_pretrained(base)
    for row in 3 * (texts if task == "sequence" else sentences)(24, 0):
        batch, targets, _ = encoded(reader, task, row)
        model.train()(**batch, labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, handle, reader


CASES = [  # family, task, pooling, layers that attend to both sides, whether labels have names
    ("bert", "sequence", "mean", None, True),
    ("bert", "sequence", None, None, False),
    ("bert", "token", None, None, True),
    ("llama", "sequence", "last", None, True),
    ("llama", "sequence", "max", "all", False),
    ("llama", "token", None, (1, 2), True),
]


@pytest.mark.parametrize(("family", "task", "pooling", "layers", "named"), CASES)
def test_it_predicts_what_the_trained_model_does(family, task, pooling, layers, named, tmp_path):
    base = save_base(tmp_path / "base", family)
    model, handle, reader = trained(base, task, pooling, layers, named)
    handle.delta().save(tmp_path / "task.safetensors")
    handle.restore()
    rows = (texts if task == "sequence" else sentences)(6, 5)
    names = NAMES[task] if named else [f"LABEL_{i}" for i in range(len(NAMES[task]))]
    expected = []
    with torch.no_grad():
        for row in rows:
            batch, _, first = encoded(reader, task, row)
            found = model.eval()(**batch).logits[0].softmax(-1)
            best = found.max(-1) if task == "sequence" else found[first].max(-1)
            expected.append((best.indices.tolist(), best.values))
    assert len({str(indices) for indices, _ in expected}) > 1  # it has learnt to tell some apart

    classifier = Classifier.load(base, tmp_path / "task.safetensors")
    assert (classifier.task, classifier.label_names) == (task, names)
    given = [row["text" if task == "sequence" else "tokens"] for row in rows]
    for prediction, (indices, values) in zip(classifier.predict(given), expected, strict=True):
        wanted = names[indices] if task == "sequence" else [names[i] for i in indices]
        assert prediction.label == wanted
        torch.testing.assert_close(torch.tensor(prediction.probability), values, rtol=1e-4, atol=1e-6)

    lines = "".join((text if task == "sequence" else " ".join(text)) + "\n" for text in given)
    told = run("predict", "--model", base, "--delta", str(tmp_path / "task.safetensors"), "--jsonl", input=lines)
    found = [json.loads(line)["label" if task == "sequence" else "tags"] for line in told.stdout.splitlines()]
    assert found == [names[i] if task == "sequence" else [names[n] for n in i] for i, _ in expected]


def test_what_it_says_of_itself(tmp_path):
    base = save_base(tmp_path / "base", "llama")
    recipe = trained(base, "sequence", "max", (1, 2), True)[1].delta().recipe
    assert recipe == clm.Recipe("sequence", Path(base).name, None, "max", (1, 2), dtype="float32")
    token = trained(base, "token", None, None, True)[1].delta(
        labels=["a", "b"], recipe=clm.Recipe(model="elsewhere", max_length=7)
    )
    assert (token.recipe.task, token.recipe.model, token.recipe.max_length, token.recipe.pooling) == ("token", "elsewhere", 7, "")
    assert token.labels == ["a", "b"]


def test_a_text_is_cut_off_where_the_model_ends_unless_the_recipe_says_so(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    handle = trained(base, "sequence", "mean", None, True)[1]
    for given, limit in ((None, 32), (5, 5)):
        handle.delta(recipe=clm.Recipe(max_length=given)).save(tmp_path / "task.safetensors")
        assert Classifier.load(base, tmp_path / "task.safetensors").max_length == limit


def test_a_pooler_that_neither_base_nor_delta_holds_is_refused_where_it_is_read(tmp_path):
    make, sizes = CONFIGS["bert"]
    BertForMaskedLM(make(**sizes, pad_token_id=0, max_position_embeddings=32)).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    file = tmp_path / "task.safetensors"
    trained(tmp_path / "base", "sequence", None, None, True)[1].delta().save(file)
    with pytest.raises(ValueError, match=r"^Classifier.load: delta must be one that holds .*got one without 'bert.pooler.dense"):
        Classifier.load(tmp_path / "base", file)
    trained(tmp_path / "base", "sequence", "mean", None, True)[1].delta().save(file)  # which leaves the pooler out
    assert Classifier.load(tmp_path / "base", file).task == "sequence"
    parts = ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]
    trained(tmp_path / "base", "sequence", None, None, True, head=parts)[1].delta().save(file)
    assert Classifier.load(tmp_path / "base", file).task == "sequence"
    trained(tmp_path / "base", "sequence", "mean", None, True, head=False)[1].delta().save(file)
    with pytest.raises(ValueError, match=r"got one without 'classifier.weight'"):
        Classifier.load(tmp_path / "base", file)


def test_a_delta_of_another_head_is_no_classifier(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    model = BertForMaskedLM.from_pretrained(base)
    clm.patch(model, select(model)).delta().save(tmp_path / "task.safetensors")
    with pytest.raises(ValueError, match="delta must be one of a text or token classifier"):
        Classifier.load(base, tmp_path / "task.safetensors")
