"""`clm.evaluate` from a run to its folder, and what training leaves for it."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blocked import python
from tiny_runs import base, finished, silent  # noqa: F401
from tiny_task import sentences, texts, write_data, write_jsonl

import clm_kernels as clm
from clm_kernels.finetune import Classifier, train
from clm_kernels.finetune.judging.calibration import Calibration, calibration_error, reliability, softmax
from clm_kernels.finetune.judging.keeping import CONFIG_KEY

FILES = {
    "evaluation.json",
    "classes.csv",
    "confusion.csv",
    "errors.csv",
    "mislabels.csv",
    "confusion.png",
    "reliability.png",
    "report.html",
}


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def muddled(rows):
    """The same with every fifth label wrong, and what no spreadsheet should run."""
    other = {"billing": "delivery", "delivery": "access", "access": "billing"}
    return [
        row | {"label": other[row["label"]], "text": f"=\x07 {row['text']}"} if i % 5 == 0 else row for i, row in enumerate(rows)
    ]


def long_sentences(count, seed):
    """Whose last words are cut off at 8 tokens."""
    end = {"tokens": ["with", "Anna", "now"], "tags": ["O", "B-PER", "O"]}
    return [{column: values + end[column] for column, values in row.items()} for row in sentences(count, seed)]


@pytest.fixture(scope="module")
def tagger(base, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("tagger")
    config = replace(base, **write_data(folder, long_sentences), output=str(folder / "out"), max_length=8)
    return config, train(config, silent)


@pytest.fixture(scope="module")
def evaluated(finished, tmp_path_factory):  # noqa: F811
    config, _ = finished
    folder = tmp_path_factory.mktemp("evaluated")
    data = write_jsonl(folder / "new.jsonl", muddled(texts(60, 9)))
    return config.run.output, data, clm.evaluate(config.run.output, data, folder / "out"), folder / "out"


# What training leaves


def test_training_keeps_a_temperature_and_what_it_was_fitted_on(finished):  # noqa: F811
    config, report = finished
    classifier = Classifier.load(config.run.output)
    fitted = report.calibration
    assert fitted == json.loads((Path(config.run.output) / "report.json").read_text())["calibration"]
    assert classifier.calibration.temperature == fitted["temperature"] != 1 and fitted["rows"] == 18
    assert classifier.calibration.rows == 18 and classifier.calibration.table[0].rows == 18


def test_the_reported_errors_are_those_of_what_loads(finished):  # noqa: F811
    config, report = finished
    rows = [json.loads(line) for line in Path(config.data.validation).read_text().splitlines()]
    classifier = Classifier.load(config.run.output)

    def error(predictions):
        pairs = [(prediction.probability, prediction.label == row["label"]) for prediction, row in zip(predictions, rows)]
        return calibration_error(reliability(*map(np.array, zip(*pairs))))

    assert error(classifier.predict([row["text"] for row in rows])) == pytest.approx(report.calibration["error_after"], abs=1e-5)
    classifier.calibration = Calibration()
    assert error(classifier.predict([row["text"] for row in rows])) == pytest.approx(report.calibration["error_before"], abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_every_method_keeps_it(method, base, tmp_path):  # noqa: F811
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed")
    report = train(replace(base, method=method, output=str(tmp_path / "o"), epochs=1), silent)
    loaded = Classifier.load(tmp_path / "o")
    assert loaded.calibration.temperature == report.calibration["temperature"] != 1
    loaded.export(tmp_path / "plain")
    assert Classifier.load(tmp_path / "plain").calibration == loaded.calibration


def test_a_result_without_one_loads_with_temperature_one(finished, tmp_path):  # noqa: F811
    config, _ = finished
    delta = clm.Delta.load(Path(config.run.output) / "delta.safetensors")
    details = {name: value for name, value in delta.recipe.details.items() if name != "calibration"}
    delta.recipe = replace(delta.recipe, details=details)
    delta.save(tmp_path / "old.safetensors")
    old = Classifier.load(config.data.model, tmp_path / "old.safetensors")
    assert old.calibration == Calibration()
    (prediction,) = old.predict(["my refund"])
    inputs = old.tokenizer(["my refund"], return_tensors="pt").to(old.model.device)
    assert prediction.probability == old.model(**inputs).logits.softmax(-1).max().item()
    with pytest.raises(ValueError, match=r"^predict: reject must be left out"):
        old.predict(["my refund"], reject=0.9)


def test_the_base_s_own_temperature_is_not_its_child_s(base, finished, tmp_path):  # noqa: F811
    """A run that goes on from a fine-tuned checkpoint fits its own."""
    config, _ = finished
    Classifier.load(config.run.output).export(tmp_path / "base")
    described = json.loads((tmp_path / "base" / "config.json").read_text())
    described[CONFIG_KEY] = {"temperature": 7.0, "rows": 0, "table": []}
    (tmp_path / "base" / "config.json").write_text(json.dumps(described))
    assert Classifier.load(tmp_path / "base").calibration.temperature == 7
    report = train(replace(base, model=str(tmp_path / "base"), method="head", output=str(tmp_path / "o"), epochs=1), silent)
    assert Classifier.load(tmp_path / "o").calibration.temperature == report.calibration["temperature"] != 7


# Predicting


def test_one_text_gives_one_prediction(finished, tagger):  # noqa: F811
    classifier = Classifier.load(finished[0].run.output)
    assert classifier.predict("my refund") == next(classifier.predict(["my refund"]))
    tags = Classifier.load(tagger[0].run.output)
    assert tags.predict("Anna lives in Rome") == next(tags.predict([["Anna", "lives", "in", "Rome"]]))


def test_the_best_labels_have_probabilities_that_sum_to_one(finished):  # noqa: F811
    classifier = Classifier.load(finished[0].run.output)
    plain, ranked = (next(classifier.predict(["my refund"], top=top)) for top in (1, 3))
    assert ranked[:3] == plain[:3] and ranked.best[0] == (plain.label, plain.probability)
    assert {label for label, _ in ranked.best} == set(classifier.label_names)
    assert sum(share for _, share in ranked.best) == pytest.approx(1)
    assert ranked.best == sorted(ranked.best, key=lambda pair: -pair[1])


def test_labels_below_the_threshold_are_rejected_and_no_others(finished):  # noqa: F811
    classifier = Classifier.load(finished[0].run.output)
    given = ["my refund", "it is a courier", "please", "the login login", "where"]
    plain = list(classifier.predict(given))
    cut = sorted(prediction.probability for prediction in plain)[2] - 1e-6
    classifier.calibration = replace(classifier.calibration, rows=9, table=[Calibration.from_dict(
        {"temperature": 1, "rows": 9, "table": [[cut, 9, 9]]}).table[0]])  # fmt: skip
    found = list(classifier.predict(given, reject=0.9))
    assert [prediction.label for prediction in found] == [p.label if p.probability >= cut else None for p in plain]
    assert sum(prediction.label is None for prediction in found) == 2
    assert [prediction.probability for prediction in found] == [prediction.probability for prediction in plain]


# Judging


def test_it_leaves_its_folder(evaluated):
    _, _, found, folder = evaluated
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "evaluation.json").read_text()) == json.loads(found.to_json())
    assert (found.rows, found.items, found.unit, found.output) == (60, 60, "texts", str(folder))


@pytest.mark.parametrize("make", ["finished", "tagger"])
def test_the_scores_are_those_that_training_reports_of_the_same_data(make, request, tmp_path):
    config, report = request.getfixturevalue(make)
    found = clm.evaluate(config.run.output, config.data.test, tmp_path / "o", draws=20)
    expected = {name: report.test[name] for name in found.scores}
    assert {name: interval.score for name, interval in found.scores.items()} == pytest.approx(expected)
    assert found.cut_off == report.cut["test"] and (found.cut_off > 0) == (make == "tagger")


def test_the_tables_agree_with_each_other(evaluated):
    _, data, found, folder = evaluated
    errors, rows = read(folder / "errors.csv"), [json.loads(line) for line in Path(data).read_text().splitlines()]
    assert len(errors) == found.errors > 0 and found.scores["accuracy"].score == pytest.approx(1 - found.errors / 60)
    shares = [float(line["probability"]) for line in errors]
    assert shares == sorted(shares, reverse=True)
    for line in errors:
        row = rows[int(line["place"].removeprefix("line ")) - 1]
        assert row["label"] == line["label"] != line["predicted"] and float(line["label's probability"]) <= float(
            line["probability"]
        )
    confusion = read(folder / "confusion.csv")
    wrong = sum(int(line[name]) for line in confusion for name in found_labels(found) if name != line["gold \\ predicted"])
    assert wrong == found.errors == sum(pair.errors for pair in found.confused)
    assert [line["label"] for line in read(folder / "classes.csv")] == found_labels(found)


def found_labels(found):
    return [line.label for line in found.classes]


def test_the_wrong_labels_are_among_the_likely_ones(evaluated):
    _, _, found, folder = evaluated
    lines = read(folder / "mislabels.csv")
    assert len(lines) == found.mislabels
    places = {int(line["place"].removeprefix("line ")) - 1 for line in lines[:12]}
    assert len(places & set(range(0, 60, 5))) >= 6  # by chance two or three


def test_nothing_in_a_table_is_a_formula_or_a_control_character(evaluated):
    *_, folder = evaluated
    texts = [line["text"] for line in read(folder / "errors.csv") if "=" in line["text"]]
    assert len(texts) >= 6 and all(text.startswith("'=\\x07 ") for text in texts)


def test_errors_name_the_words_that_carried_the_given_label(evaluated):
    *_, folder = evaluated
    errors = read(folder / "errors.csv")
    assert all(word in line["text"] for line in errors for word in line["words"].split())
    assert max(len(line["words"].split()) for line in errors) <= 3
    assert sum(bool(line["words"]) for line in errors) > len(errors) / 2


def test_tags_are_judged_by_spans_and_words(tagger, tmp_path):
    config, _ = tagger
    found = clm.evaluate(config.run.output, config.data.test, tmp_path / "o", draws=20)
    assert found_labels(found) == ["LOC", "PER"] and list(found.scores) == ["f1", "accuracy"] and found.unit == "words"
    words = sum(len(json.loads(line)["tokens"]) for line in Path(config.data.test).read_text().splitlines())
    assert found.items == words == sum(int(n) for line in read(tmp_path / "o" / "confusion.csv") for n in list(line.values())[1:])
    assert sum(each.rows for each in found.bins) == words - found.cut_off
    errors = read(tmp_path / "o" / "errors.csv")
    assert (
        len(errors) == found.errors >= found.cut_off
        and [line["predicted"] for line in errors[-found.cut_off :]] == [""] * found.cut_off
    )
    for line in errors:
        assert line["sentence"].split()[int(line["word number"]) - 1] == line["word"]
        assert {*line["words"].split()} <= {*line["sentence"].split()} and bool(line["words"]) <= bool(line["predicted"])


def test_two_classifiers_are_compared_on_the_same_texts(evaluated, base, tmp_path):  # noqa: F811
    run, data, first, _ = evaluated
    train(replace(base, method="head", epochs=1, learning_rate=1e-5, output=str(tmp_path / "other")), silent)
    found = clm.evaluate(run, data, tmp_path / "o", compare=tmp_path / "other", draws=200)
    second = clm.evaluate(tmp_path / "other", data, tmp_path / "p", draws=20)
    for name, difference in found.compared.differences.items():
        assert difference.difference == pytest.approx(second.scores[name].score - first.scores[name].score)
        assert difference.low <= difference.difference <= difference.high
    test = found.compared.mcnemar
    assert test.only_second - test.only_first == first.errors - second.errors
    assert first.compared is None


def test_a_tagger_and_a_classifier_are_not_compared(evaluated, tagger, tmp_path):
    run, data, *_ = evaluated
    with pytest.raises(ValueError, match=r"^evaluate: compare must be a classifier of the same task, got one for token"):
        clm.evaluate(run, data, tmp_path / "o", compare=tagger[0].run.output)
    assert not (tmp_path / "o").exists()


def test_the_training_data_are_known_again(finished, tmp_path):  # noqa: F811
    config, _ = finished
    said = {part: clm.evaluate(config.run.output, getattr(config.data, part), tmp_path / part, draws=2).notes
            for part in ("train", "validation", "test")}  # fmt: skip
    assert "training data" in said["train"][0] and "validation data" in said["validation"][0] and said["test"] == []


def test_the_run_s_columns_are_its_own(base, tmp_path):  # noqa: F811
    def renamed(path):
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        return write_jsonl(tmp_path / Path(path).name, [{"utterance": row["text"], "intent": row["label"]} for row in rows])

    parts = {part: renamed(getattr(base.data, part)) for part in ("train", "validation", "test")}
    columns = {"text_column": "utterance", "label_column": "intent"}
    report = train(
        replace(base, **parts, **columns, task="sequence", method="head", epochs=1, output=str(tmp_path / "o")), silent
    )
    found = clm.evaluate(tmp_path / "o", parts["test"], draws=2)
    assert found.scores["accuracy"].score == pytest.approx(report.test["accuracy"])
    assert Path(found.output) == tmp_path / "o" / "evaluation-test"
    other = clm.evaluate(
        tmp_path / "o", base.data.test, tmp_path / "e", draws=2, columns={"text_column": "text", "label_column": "label"}
    )
    assert other.scores == found.scores


def test_a_new_run_takes_the_evaluations_of_the_former_away(base, tmp_path):  # noqa: F811
    config = replace(base, method="head", epochs=1, output=str(tmp_path / "o"))
    train(config, silent)
    folder = Path(clm.evaluate(tmp_path / "o", config.data.test, draws=2).output)
    clm.evaluate(tmp_path / "o", config.data.test, draws=2)
    assert folder.parent == tmp_path / "o" and folder.is_dir()
    train(replace(config, overwrite=True), silent)
    assert not folder.exists()


def test_a_folder_of_something_else_stays_as_it_is(evaluated, tmp_path):
    run, data, *_ = evaluated
    (tmp_path / "errors.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"^evaluate: output must be a new folder, or one of a former evaluation, got"):
        clm.evaluate(run, data, tmp_path)
    assert (tmp_path / "errors.csv").read_text() == "mine"


def test_a_label_that_was_not_learnt_is_refused_with_its_line(evaluated, tmp_path):
    run, *_ = evaluated
    data = write_jsonl(tmp_path / "d.jsonl", [*texts(2, 0), {"text": "x", "label": "new"}])
    with pytest.raises(ValueError, match=r"line 3 must be labelled with what the classifier has learnt, got 'new'$"):
        clm.evaluate(run, data, tmp_path / "o")


def test_without_matplotlib_the_tables_are_left(evaluated, tmp_path):
    run, data, *_ = evaluated
    script = f"import clm_kernels as clm; clm.evaluate({run!r}, {data!r}, {str(tmp_path / 'o')!r}, draws=2)"
    done = python(script, ["matplotlib"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pictures left out: evaluate: the package matplotlib is needed: pip install")
    assert {path.name for path in (tmp_path / "o").iterdir()} == {name for name in FILES if not name.endswith(".png")}


def test_the_temperature_is_that_of_the_validation_logits(finished):  # noqa: F811
    """By hand: one batch, plain transformers."""
    config, report = finished
    classifier = Classifier.load(config.run.output)
    rows = [json.loads(line) for line in Path(config.data.validation).read_text().splitlines()]
    inputs = classifier.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt").to(classifier.model.device)
    with torch.no_grad():
        logits = classifier.model(**inputs).logits.double().cpu().numpy()
    gold = np.array([classifier.label_names.index(row["label"]) for row in rows])

    def loss(temperature):
        own = softmax(logits, temperature)
        return -np.log(own[range(18), gold]).sum() - np.log(own).mean()

    found = report.calibration["temperature"]
    assert loss(found) < min(loss(found * 0.98), loss(found * 1.02))


def test_a_run_s_folder_can_be_moved(evaluated, tmp_path):
    run, data, first, _ = evaluated
    shutil.copytree(run, tmp_path / "moved")
    assert clm.evaluate(tmp_path / "moved", data, tmp_path / "o").scores == first.scores
