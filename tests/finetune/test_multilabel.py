"""Multi-label classification from the files to predictions: lists and separated texts, every method, thresholds, what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from tiny_runs import base, silent  # noqa: F401
from tiny_task import TOPICS, several, tokenizer, write_data, write_jsonl
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import clm_kernels as clm
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.checking.checked import check_files
from clm_kernels.finetune.data import find_task, load_data
from clm_kernels.finetune.judging.keeping import CONFIG_KEY
from clm_kernels.finetune.judging.several import marks
from clm_kernels.finetune.judging.thresholds import marked_scores

LABELS = sorted(TOPICS)
QUICK = {"epochs": 1, "batch_size": 8}
DEALT = {"select": "auto", "per": "auto", "density": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with three files of lists, by the names of TrainConfig's fields."""
    return write_data(tmp_path_factory.mktemp("several"), several, 72)


@pytest.fixture(scope="module")
def learnt(base, data, tmp_path_factory):  # noqa: F811
    """A finished run: its config and report."""
    options = {"epochs": 4, "learning_rate": 2e-2, "pooling": "max", **DEALT}
    config = replace(base, **data, output=str(tmp_path_factory.mktemp("run") / "out"), **options)
    return config, train(config, silent)


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def examples(config):
    """The first validation texts with two labels and with none."""
    rows = rows_of(config.data.validation)
    return [next(row for row in rows if len(row["labels"]) == count) for count in (2, 0)]


def scored(folder, path):
    """The scores of what `predict` gives, by their definitions."""
    rows = rows_of(path)
    found = marks([prediction.label for prediction in Classifier.load(folder).predict([row["text"] for row in rows])], LABELS)
    gold = marks([row["labels"] for row in rows], LABELS)
    hits, either = (gold & found).sum(0), gold.sum(0) + found.sum(0)
    return {
        "micro_f1": 2 * hits.sum() / either.sum(),
        "macro_f1": np.mean(2 * hits / either),
        "exact_match": (gold == found).all(1).mean(),
    }


# From files


def as_csv(path, rows, column, separator):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", column])
        writer.writeheader()
        writer.writerows({"text": row["text"], column: separator.join(row["labels"])} for row in rows)
    return str(path)


@pytest.mark.parametrize("column", ["label", "labels"])
def test_a_list_and_a_separated_text_are_the_same(data, tmp_path, column):
    of_lists = load_data(TrainConfig(**data).data, 1)
    separated = {part: as_csv(tmp_path / f"{part}.csv", rows_of(path), column, " | ") for part, path in data.items()}
    of_texts = load_data(TrainConfig(**separated, label_separator="|").data, 1)
    assert of_lists.task is of_texts.task and of_lists.task.name == "multilabel"
    assert of_lists.label_names == of_texts.label_names == LABELS
    for part in ("train", "validation", "test"):
        assert list(of_lists.splits[part].labels) == list(of_texts.splits[part].labels)
    assert [] in list(of_lists.train.labels)


def test_a_parquet_list_is_read(data, tmp_path):
    pytest.importorskip("pyarrow")
    from datasets import Dataset

    Dataset.from_list(rows_of(data["train"])).to_parquet(str(tmp_path / "t.parquet"))
    corpus = load_data(TrainConfig(train=str(tmp_path / "t.parquet")).data, 1)
    assert corpus.task.name == "multilabel" and len(corpus.validation) == 7


@pytest.mark.parametrize(
    "row, options, task",
    [
        ({"label": "a", "labels": ["a"]}, {}, "sequence"),  # as it was before there were lists
        ({"label": "a", "labels": ["a"]}, {"label_separator": "|"}, "multilabel"),
        ({"label": "a|b"}, {"label_separator": "|"}, "multilabel"),
        ({"label": "a|b"}, {}, "sequence"),
        ({"label": ["a"]}, {}, "multilabel"),
        ({"labels": ["a"]}, {}, "multilabel"),
        ({"topics": ["a"], "label": "a"}, {"labels_column": "topics"}, "multilabel"),
    ],
)
def test_the_columns_tell_the_task(tmp_path, row, options, task):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "x", **row}])
    assert find_task(TrainConfig(train=path, **options).data).name == task


def test_order_and_repetition_in_a_list_say_nothing(tmp_path):
    rows = [{"text": "x", "labels": ["b", "a", "b"]}, {"text": "y", "labels": [2, "a"]}, {"text": "z", "labels": []}]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    corpus = load_data(TrainConfig(train=path, validation=path).data, 1)
    assert list(corpus.train.labels) == [["a", "b"], ["2", "a"], []] and corpus.label_names == ["2", "a", "b"]


@pytest.mark.parametrize("labels", ["a|b", None, [""], [1.5]])
def test_what_is_no_list_of_labels_is_refused_with_its_place(tmp_path, labels):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "x", "labels": ["a", "b"]}, {"text": "y", "labels": labels}])
    with pytest.raises(ValueError, match=r"t.jsonl, line 2: labels must be"):
        load_data(TrainConfig(train=path).data, 1)


def test_check_knows_lists(tmp_path):
    rows = [{"text": f"a text {i}", "labels": labels} for i, labels in enumerate([["a", "b"], ["b"], [], ["a"]] * 8)]
    again = {**rows[0], "labels": ["b", "a"]}  # the same labels in another order contradict nothing
    path = write_jsonl(tmp_path / "t.jsonl", [*rows, again])
    checked = check_files(TrainConfig(train=path).data)
    assert checked.task == "multilabel" and checked.as_json()["parts"]["train"]["labels"] == {"a": 17, "b": 17}
    assert "contradiction" not in [finding.code for finding in checked.findings]
    path = write_jsonl(tmp_path / "t.jsonl", [*rows, {**again, "labels": ["b"]}])
    (found,) = [each for each in check_files(TrainConfig(train=path).data).findings if each.code == "contradiction"]
    assert found.count == 2


# What is learnt and left


def test_it_is_learnt_and_scored_as_predictions_are(learnt):
    config, report = learnt
    assert report.best_by == "micro_f1" and report.best["micro_f1"] > 0.9
    expected = scored(config.run.output, config.data.test)
    assert {name: report.test[name] for name in expected} == pytest.approx(expected)
    assert {name: report.best[name] for name in expected} == pytest.approx(scored(config.run.output, config.data.validation))


def test_the_report_has_thresholds_and_every_label(learnt):
    config, _ = learnt
    saved = json.loads((Path(config.run.output) / "report.json").read_text())
    assert saved["calibration"]["thresholds"].keys() == set(LABELS) and saved["calibration"]["rows"] == 18
    gold = rows_of(config.data.test)
    for line in saved["classes"]["test"]:
        assert line["support"] == sum(line["label"] in row["labels"] for row in gold)
    assert [line["label"] for line in saved["classes"]["validation"]] == LABELS


def test_predictions_hold_the_labels_above_their_thresholds(learnt):
    config, report = learnt
    thresholds = report.calibration["thresholds"]
    classifier = Classifier.load(config.run.output)
    assert dict(zip(classifier.label_names, classifier.calibration.thresholds)) == thresholds
    both, none = classifier.predict([row["text"] for row in examples(config)])
    assert sorted(both.label) == examples(config)[0]["labels"] and none.label == [] and none.probability == []
    assert both.probability == sorted(both.probability, reverse=True)
    assert all(share >= thresholds[name] for name, share in zip(both.label, both.probability))
    assert classifier.predict(both.text).label == both.label


def test_the_command_prints_lists(learnt):
    config, _ = learnt
    two, none = examples(config)
    given = {"input": f"{two['text']}\n{none['text']}\n"}
    lines = run("predict", "--model", config.run.output, **given).stdout.splitlines()
    names, shares, text = lines[0].split("\t")
    assert sorted(names.split("|")) == two["labels"] and len(shares.split("|")) == 2 and text == two["text"]
    assert lines[1] == f"-\t-\t{none['text']}"
    exact = [json.loads(line) for line in run("predict", "--model", config.run.output, "--jsonl", **given).stdout.splitlines()]
    assert exact[1] == {"text": none["text"], "labels": [], "probabilities": []} and len(exact[0]["labels"]) == 2


def test_thresholds_stay_with_a_checkpoint_and_a_missing_one_is_a_half(learnt, tmp_path):
    config, _ = learnt
    classifier = Classifier.load(config.run.output)
    classifier.export(tmp_path / "export")
    again = Classifier.load(tmp_path / "export")
    assert again.task == "multilabel" and again.calibration == classifier.calibration
    path = tmp_path / "export" / "config.json"
    described = json.loads(path.read_text())
    assert described["problem_type"] == "multi_label_classification"
    kept = described.pop(CONFIG_KEY)
    path.write_text(json.dumps(described))
    assert Classifier.load(tmp_path / "export").calibration.thresholds == (0.5, 0.5, 0.5)
    for thresholds in ([0.5], [0.5, 0.5, 2]):
        path.write_text(json.dumps({**described, CONFIG_KEY: kept | {"thresholds": thresholds}}))
        with pytest.raises(ValueError, match="the thresholds of labels must be"):
            Classifier.load(tmp_path / "export")


def test_evaluate_says_the_same_as_the_report(learnt, tmp_path):
    config, report = learnt
    found = clm.evaluate(config.run.output, config.data.test, tmp_path / "out", compare=config.run.output)
    assert {name: score.score for name, score in found.scores.items()} == pytest.approx(
        {name: report.test[name] for name in ("micro_f1", "macro_f1", "exact_match")}
    )
    assert all(low <= score <= high for score, low, high in found.scores.values()) and found.items == 18 * 3
    assert [line._asdict() for line in found.classes] == report.classes["test"]
    assert found.compared.mcnemar.p == 1 and found.compared.differences["micro_f1"].difference == 0
    with open(tmp_path / "out" / "errors.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == found.errors
    assert run("evaluate", config.run.output, config.data.test, "--output", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("option", [("--top", 2), ("--reject", 0.9), ("--out-of-scope",)])
def test_what_it_cannot_give_is_refused_by_name(learnt, option):
    refused = run("predict", "--model", learnt[0].run.output, *option, input="refund\n")
    name = option[0][2:].replace("-", "_")
    assert refused.exit_code != 0 and f"{name} must be left out where a text may have several labels" in refused.stderr


# Every method and lever


@pytest.mark.parametrize(
    "options",
    [
        {"method": "full", "learning_rate": 1e-3, "dtype": "auto"},
        {"method": "lora", "precision": "bf16"},
        {"select": "tokens", "packing": True, "noise": 0.1},
        {**DEALT, "energy": "0.9", "skip": 0.3, "epochs": 2},
        {**DEALT, "cost": 0.5, "epochs": 2, "dtype": "bfloat16"},
        {**DEALT, "method": "head"},
    ],
    ids=lambda options: "+".join(options),
)
def test_every_method_and_lever_trains_it(base, data, tmp_path, options):  # noqa: F811
    if options.get("method") == "lora":
        pytest.importorskip("peft")
    config = replace(base, **data, **{**QUICK, **options}, output=str(tmp_path / "o"))
    report = train(config, silent)
    assert report.history[-1]["micro_f1"] > 0 and np.isfinite(report.history[-1]["train_loss"])
    expected = scored(config.run.output, config.data.test)
    assert {name: report.test[name] for name in expected} == pytest.approx(expected)


def test_estimate_names_the_task_to_ask_for(base):  # noqa: F811
    refused = run("estimate", "--model", base.data.model, "--task", "multilabel")
    assert refused.exit_code != 0 and "task must be sequence" in refused.stderr


# In Python


def test_choose_and_the_trainer_take_a_matrix_of_floats(base, data, tmp_path):  # noqa: F811
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        base.data.model, problem_type="multi_label_classification", id2label=names, label2id={n: i for i, n in names.items()}
    )
    rows, tokens = rows_of(data["train"]), tokenizer()
    encoded = [{**tokens(row["text"]), "labels": marks([row["labels"]], LABELS)[0].astype(float).tolist()} for row in rows]
    options = {"kind": "columns", "density": 0.1, "examples": 24}
    selection = clm.choose(model, tokens, rows, tokens=True, **options)
    assert len(selection) and clm.choose(model, tokens, encoded, **options) == clm.choose(model, tokens, rows, **options)
    with clm.patch(model, selection):
        optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
        args = TrainingArguments(
            str(tmp_path), max_steps=4, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
        )
        trainer = Trainer(model=model, args=args, train_dataset=encoded, optimizers=(optimizer, None), processing_class=tokens)
        assert np.isfinite(trainer.train().training_loss)


def test_a_name_that_the_model_has_not_is_refused(base):  # noqa: F811
    model = AutoModelForSequenceClassification.from_pretrained(base.data.model, problem_type="multi_label_classification")
    for row, said in (({"text": "x", "labels": ["nil"]}, "got 'nil'"), ({"text": "x", "label": "a"}, "takes several")):
        with pytest.raises(ValueError, match=said):
            clm.choose(model, tokenizer(), [row], kind="columns", examples=1)


def test_scores_of_nothing_are_zero():
    none = np.zeros((2, 3), bool)
    assert marked_scores(none, none) == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0}
