"""`train` with merged tokens from end to end, on tiny models: what it leaves, and everything that reads it."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import run
from safetensors.torch import load_file
from tiny_runs import FAST, assert_same, silent, trained_tensors
from tiny_task import FILLERS, save_model, sentences, tokenizer, write_data, write_jsonl
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clm_kernels import Delta, Selection
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.beginning import choose_selection
from clm_kernels.finetune.trainer import RunTrainer

PHRASES = {"billing": ["my refund", "the invoice"], "delivery": ["my parcel", "the courier"], "access": ["my password"]}
NAME = "bert.embeddings.word_embeddings.weight"
SELECTED = {**FAST, "epochs": 8, "merge_tokens": 4}


def phrases(count, seed):
    """Texts with one phrase of two pieces that decides."""
    draw, rows = random.Random(seed), []
    for i in range(count):
        label = sorted(PHRASES)[i % 3]
        words = [*draw.choices(FILLERS[2:], k=draw.randrange(1, 4)), draw.choice(PHRASES[label])]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merging")
    model = save_model(folder / "model", vocab_size=len(tokenizer()))  # so that the embedding grows
    return TrainConfig(model=model, **write_data(folder, phrases), **SELECTED)


@pytest.fixture(scope="module")
def finished(plain, tmp_path_factory):
    lines, config = [], replace(plain, output=str(tmp_path_factory.mktemp("run") / "out"))
    return config, train(config, lines.append), lines


def read(path, column="text"):
    return [json.loads(line)[column] for line in Path(path).read_text().splitlines()]


def test_it_learns_and_says_what_it_merged(finished):
    config, report, lines = finished
    assert report.test["accuracy"] > 0.9
    written = json.loads((Path(config.run.output) / "report.json").read_text())["merged"]
    assert written == report.merged and set(written["tokens"]) <= {phrase for some in PHRASES.values() for phrase in some}
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (config.data.model, config.run.output))
    assert len(after) == len(before) + len(written["tokens"]) == len(before) + 4
    for part in ("train", "validation", "test"):
        texts, lengths = read(config.options()[part]), written["tokens_per_text"][part]
        counted = [sum(len(ids) for ids in t(texts, add_special_tokens=False)["input_ids"]) / len(texts) for t in (before, after)]
        assert [lengths["before"], lengths["after"]] == counted and counted[1] < 0.9 * counted[0]
    (line,) = (line for line in lines if line.startswith("merged"))
    assert line.startswith("merged 4 of 4 token groups") and "tokens a text: train" in line


def test_new_rows_and_the_selection_have_trained(finished):
    config, *_ = finished
    selection = Selection.load(Path(config.run.output) / "selection.safetensors")
    base = load_file(Path(config.data.model) / "model.safetensors")
    after = Classifier.load(config.run.output).model.base_model.state_dict()
    rows, old = after["embeddings.word_embeddings.weight"], base["embeddings.word_embeddings.weight"]
    delta = Delta.load(Path(config.run.output) / "delta.safetensors")
    assert selection[NAME].index.tolist() == [token.id for token in delta.extension.tokens] and len(selection[NAME].index) == 4
    same = [i for i in range(len(old)) if i not in selection[NAME].index.tolist()]
    assert torch.equal(rows[same], old[same]) and len(rows) == len(old) + 4
    for token in delta.extension.tokens:
        assert not torch.equal(rows[token.id], old[list(token.pieces)].mean(0))


def test_every_way_to_read_it_predicts_the_same(finished, tmp_path):
    config, report, _ = finished
    texts = [*read(config.data.test), "My REFUND, please", "my refunds"]
    Path(tmp_path / "t.txt").write_text("\n".join(texts))
    exported = run("export", "--model", config.run.output, "--output", tmp_path / "plain")
    assert exported.exit_code == 0, exported.stderr
    both = ["--model", config.data.model, "--delta", Path(config.run.output) / "delta.safetensors"]
    also = run("export", *both, "--output", tmp_path / "also")
    assert also.exit_code == 0, also.stderr
    ways = [["--model", config.run.output], both, ["--model", tmp_path / "plain"], ["--model", tmp_path / "also"]]
    results = [run("predict", *way, tmp_path / "t.txt", "--jsonl") for way in ways]
    assert [result.exit_code for result in results] == [0] * 4, results
    assert len({result.stdout for result in results}) == 1
    found = [json.loads(line)["label"] for line in results[0].stdout.splitlines()]
    labels = read(config.data.test, "label")
    assert sum(map(str.__eq__, found, labels)) / len(labels) == report.test["accuracy"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain", trust_remote_code=True).eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "plain")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = (model(**tokens).logits / model.config.clm_calibration["temperature"]).softmax(-1).max(-1).values
    expected = [json.loads(line)["probability"] for line in results[0].stdout.splitlines()]
    assert probabilities.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_tokenizer_that_is_not_the_bases_is_refused(finished, tmp_path):
    config, *_ = finished
    shutil.copytree(config.data.model, tmp_path / "model")
    other = AutoTokenizer.from_pretrained(config.data.model)
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path / "model")
    result = run("predict", "--model", tmp_path / "model", "--delta", Path(config.run.output) / "delta.safetensors", input="x\n")
    assert result.exit_code == 2 and "add_tokens: tokenizer must be the base's" in result.stderr


def test_same_seed_same_result_also_after_a_break(finished, tmp_path, monkeypatch):
    config, report, _ = finished
    config = replace(config, output=str(tmp_path / "o"))
    step, taken = RunTrainer.training_step, []

    def stop(self, *args, **kwargs):
        taken.append(1)
        return 1 / 0 if len(taken) == 9 else step(self, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", stop)
    with pytest.raises(ZeroDivisionError):
        train(config, silent)
    again = train(replace(TrainConfig(), output=config.run.output, resume=True), silent)
    assert again.history == report.history and again.merged == report.merged
    assert_same(trained_tensors(tmp_path / "o"), trained_tensors(finished[0].run.output))


@pytest.mark.parametrize("method", ["head", "full"])
def test_other_methods(plain, tmp_path, method):
    config = replace(plain, output=str(tmp_path / "o"), method=method, pooling="native", epochs=1)
    report = train(config, silent)
    assert len(report.merged["tokens"]) == 4
    if method == "head":
        delta = Delta.load(tmp_path / "o" / "delta.safetensors")
        assert list(delta.selection) == [NAME] and delta.selection[NAME].index.numel() == 4
        assert set(delta.whole) >= {"classifier.weight", "classifier.bias"} and len(delta.whole) <= 4
    else:
        plain_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "o")
        assert_same(plain_model.state_dict(), Classifier.load(tmp_path / "o").model.state_dict())
    assert len(list(Classifier.load(tmp_path / "o").predict(["my refund"]))) == 1


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "modernbert"])
def test_other_families(family, tmp_path):
    config = TrainConfig(model=save_model(tmp_path / "m", family), output=str(tmp_path / "o"), **write_data(tmp_path, phrases))
    train(replace(config, **SELECTED | {"epochs": 1, "pooling": "auto"}), silent)
    both = Classifier.load(config.data.model, Path(config.run.output) / "delta.safetensors")
    texts = ["my refund please", "the parcel"]
    assert list(both.predict(texts)) == list(Classifier.load(config.run.output).predict(texts))


def test_a_selection_made_for_the_base_or_for_the_new_tokens(plain, finished, tmp_path):
    config, *_ = finished
    chosen, _ = choose_selection(plain)
    assert chosen == Selection.load(Path(config.run.output) / "selection.safetensors")
    without = Selection((name, entries) for name, entries in chosen.items() if name != NAME)
    for number, selection in enumerate((chosen, without)):
        selection.save(tmp_path / "s.safetensors")
        output = tmp_path / str(number)
        train(replace(plain, output=str(output), selection=str(tmp_path / "s.safetensors")), silent)
        assert_same(trained_tensors(output), trained_tensors(config.run.output))


def test_from_the_command_line(plain, tmp_path):
    files = [option for part in ("model", "train", "validation") for option in (f"--{part}", plain.options()[part])]
    options = ["--epochs", "1", "--batch-size", "8", "--sensitivity-examples", "24", "--merge-tokens"]
    result = run("train", *files, "--output", tmp_path / "o", *options, "3")
    assert result.exit_code == 0, result.stderr
    assert "merged 3 of 3 token groups" in result.stderr and "by groups" in result.stdout
    assert run("predict", "--model", tmp_path / "o", input="my refund\n").exit_code == 0
    result = run("train", *files, "--output", tmp_path / "p", *options, "-1")
    assert result.exit_code == 2 and "merge_tokens must be 0 or more, got -1" in result.stderr


def test_off_by_default(plain, tmp_path):
    report = train(replace(plain, output=str(tmp_path / "o"), merge_tokens=0, epochs=1), silent)
    assert report.merged == {} and NAME not in {line["name"] for line in report.selection}
    assert Delta.load(tmp_path / "o" / "delta.safetensors").extension is None


def test_words_and_tags_are_refused(tmp_path):
    config = TrainConfig(model=save_model(tmp_path / "m"), output=str(tmp_path / "o"), **write_data(tmp_path, sentences))
    with pytest.raises(
        ValueError, match=r"merge_tokens must be 0 for token classification, .* nothing merges across words, got 4"
    ):
        train(replace(config, **SELECTED), silent)
    assert not (tmp_path / "o").exists()


def test_nothing_to_merge(plain, tmp_path):
    rows = [{"text": word, "label": label} for word, label in (("refund", "billing"), ("parcel", "delivery")) for _ in range(8)]
    data = write_jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(ValueError, match="at least one that can be merged, got none of more than one piece"):
        train(replace(plain, train=data, validation="", test="", output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()


def test_a_tokenizer_that_does_not_survive_saving_stops_before_training(plain, tmp_path, monkeypatch):
    from clm_kernels.token_groups import saving

    real = saving.ids_of
    seen = []

    def ids_of(tokenizer, texts):
        seen.append(tokenizer)
        return [[0], *list(real(tokenizer, texts))[1:]] if len(seen) == 2 else real(tokenizer, texts)

    monkeypatch.setattr(saving, "ids_of", ids_of)
    with pytest.raises(ValueError, match=r"check_reload: the saved tokenizer must make .* got \[0\]"):
        train(replace(plain, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()
