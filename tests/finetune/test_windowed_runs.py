"""`train --long window` with other options, tasks, methods and processes."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import torch.distributed as dist
from interruption import press_ctrl_c
from launched import Launch, launched
from long_texts import LIMIT, in_windows, long_sentences, long_several, long_texts, rows_of
from tiny_runs import PLAIN, assert_same, base, silent, trained_tensors  # noqa: F401
from tiny_task import save_model, without_dropout, write_data

import clm_kernels as clm
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.balancing import drawing_chances, label_weights
from clm_kernels.finetune.beginning import begin


@pytest.fixture(scope="module")
def windowed(base, tmp_path_factory):  # noqa: F811
    return in_windows(base, tmp_path_factory.mktemp("long"))


@pytest.mark.parametrize("options", [{}, {"skip": 0.2, "gradient_accumulation": 2}], ids=["plain", "skip"])
def test_a_resumed_run_leaves_the_same_weights(windowed, tmp_path, monkeypatch, options):
    config = windowed.replace(epochs=3, **options)
    whole = train(config.replace(output=str(tmp_path / "a")), silent)
    with monkeypatch.context() as context:
        press_ctrl_c(context, 20)
        with pytest.raises(KeyboardInterrupt):
            train(config.replace(output=str(tmp_path / "b")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert [line["loss"] for line in resumed.history] == [line["loss"] for line in whole.history]
    assert resumed.windows == whole.windows and resumed.test == whole.test
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


def test_each_of_two_that_are_compared_reads_as_it_was_trained(windowed, tmp_path):
    for long in ("window", "truncate"):
        train(windowed.replace(long=long, output=str(tmp_path / long)), silent)
    data, accuracy = windowed.data.test, {}
    for run, other in (("window", "truncate"), ("truncate", "window")):
        found = clm.evaluate(tmp_path / run, data, tmp_path / f"{run}-evaluated", compare=tmp_path / other, draws=20)
        accuracy[run] = found.scores["accuracy"].score, found.compared.differences["accuracy"].difference
    apart = accuracy["truncate"][0] - accuracy["window"][0]
    assert apart != 0 and accuracy["window"][1] == pytest.approx(apart) == -accuracy["truncate"][1]


def uneven(count, seed):
    """Whose windows are not as many for each label as its texts would have it."""
    return [row for row in long_texts(3 * count, seed) if row["label"] == "billing" or len(row["text"]) < 60][:count]


def test_labels_are_counted_by_texts(windowed, tmp_path):
    config = windowed.replace(**write_data(tmp_path, uneven), balance="weights", output=str(tmp_path / "o"))
    begun = begin(config, silent)
    labels = begun.corpus.train.labels
    count, names = Counter(labels), begun.corpus.label_names
    weights = dict(zip(names, label_weights(begun.config.training, begun.splits["train"], 3).tolist()))
    assert weights == pytest.approx({name: len(labels) / 3 / count[name] for name in names})
    drawn = begin(config.replace(balance="sample"), silent)
    chances = drawing_chances(drawn.config.training, drawn.splits["train"], 3)
    of_texts = np.bincount(drawn.splits["train"].windows.owners, chances)
    by_label = {name: sum(c for c, label in zip(of_texts, labels) if label == name) for name in names}
    assert by_label == pytest.approx(dict.fromkeys(names, sum(of_texts) / 3))
    alike = [c for c, label in zip(of_texts, labels) if label == names[0]]
    assert alike == pytest.approx([alike[0]] * len(alike))


@pytest.mark.parametrize(
    "options",
    [{"packing": True}, {"cost": 0.5}, {"balance": "weights"}, {"balance": "sample"}, {"seeds": 2}, {"energy": "0.95"}],
    ids=str,
)
def test_it_goes_with(windowed, tmp_path, options):
    config = windowed.replace(output=str(tmp_path / "o"), **options)
    report = train(config, silent)
    made, rows = Classifier.load(tmp_path / "o"), rows_of(config.data.test)
    right = np.mean([found.label == row["label"] for found, row in zip(made.predict([r["text"] for r in rows]), rows)])
    assert right == report.test["accuracy"] and report.windows["train"]["texts"] > 0


def test_the_head_replays_its_windows(windowed, tmp_path):
    data, said, losses = windowed.data, [], {}
    for replay in (True, False):
        config = TrainConfig(
            model=data.model, train=data.train, validation=data.validation, test=data.test, **PLAIN, method="head", replay=replay,
            max_length=LIMIT, long="window", output=str(tmp_path / str(replay)),
        )  # fmt: skip
        report = train(config, said.append)
        losses[replay] = report.best["loss"]
    assert len([line for line in said if re.search(r"what they gave for \d+ windows takes", line)]) == 1
    assert abs(losses[True] - losses[False]) < 0.1  # they drop out otherwise
    assert Classifier.load(tmp_path / "True").long == "window"


def test_several_labels(base, tmp_path):  # noqa: F811
    data = write_data(tmp_path, long_several)
    config = TrainConfig(model=base.data.model, **data, **PLAIN, max_length=LIMIT, long="window", output=str(tmp_path / "o"))
    report = train(config, silent)
    made, rows = Classifier.load(tmp_path / "o"), rows_of(data["test"])
    predicted = [set(found.label) for found in made.predict([row["text"] for row in rows])]
    gold = [set(row["labels"]) for row in rows]
    assert report.test["exact_match"] == np.mean([a == b for a, b in zip(gold, predicted)])
    hits, either = sum(len(a & b) for a, b in zip(gold, predicted)), sum(len(a) + len(b) for a, b in zip(gold, predicted))
    assert report.test["micro_f1"] == pytest.approx(2 * hits / either) and report.windows["test"]["texts"] > 0
    assert sum(line["support"] for line in report.classes["test"]) == sum(map(len, gold))
    evaluated = clm.evaluate(tmp_path / "o", data["test"], tmp_path / "e", draws=20)
    assert evaluated.scores["micro_f1"].score == pytest.approx(report.test["micro_f1"])


def test_tags(base, tmp_path):  # noqa: F811
    data = write_data(tmp_path, long_sentences)
    config = TrainConfig(
        model=base.data.model,
        **data,
        **PLAIN | {"epochs": 1, "learning_rate": 1e-3},
        max_length=LIMIT,
        long="window",
        output=str(tmp_path / "o"),
    )
    said = []
    report = train(config, said.append)
    assert report.cut == {"train": 0, "validation": 0, "test": 0} and report.windows["test"]["texts"] > 0
    texts_of, windows = report.windows["train"].values()
    assert any(line.startswith(f"train: {texts_of} texts beyond 10 tokens are read in {windows} windows") for line in said)
    made, rows = Classifier.load(tmp_path / "o"), rows_of(data["test"])
    found = list(made.predict([row["tokens"] for row in rows], batch_size=5))
    assert [prediction.text for prediction in found] == [row["tokens"] for row in rows]
    pairs = [(a, b) for prediction, row in zip(found, rows) for a, b in zip(prediction.label, row["tags"], strict=True)]
    assert report.test["accuracy"] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert 0.5 < report.test["accuracy"] < 1  # else it tells little
    cut = [prediction.truncated for prediction in made.predict([row["tokens"] for row in rows], long="truncate")]
    assert any(cut) and not any(prediction.truncated for prediction in found)
    shares = made.predict_proba([row["tokens"] for row in rows])
    best = [[made.label_names[i] for i in each.argmax(-1)] for each in shares]
    assert best == [prediction.label for prediction in found]
    evaluated = clm.evaluate(tmp_path / "o", data["test"], tmp_path / "e", draws=20)
    assert evaluated.scores["f1"].score == pytest.approx(report.test["f1"]) and evaluated.cut_off == 0
    assert report.calibration["rows"] == sum(len(row["tags"]) for row in rows_of(data["validation"]))


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed with gloo")
def test_two_processes_leave_what_one_leaves(tmp_path):
    """25 texts are windows that two processes cannot share evenly."""
    save_model(tmp_path / "model", hidden_dropout_prob=0.0)
    options = {
        "model": without_dropout(tmp_path / "model"),
        **write_data(tmp_path, long_texts, 25),
        "max_length": LIMIT,
        "long": "window",
    }
    options |= {"epochs": 3, "batch_size": 8, "learning_rate": 0.002, "warmup": 0.0, "scheduler": "constant", "pooling": "mean"}
    launches = []
    for name, own in (("plain", {}), ("skip", {"skip": 0.3})):
        both = options | own
        launches.append(
            Launch(f"one-{name}", both | {"gradient_accumulation": 2, "output": tmp_path / f"one-{name}"}, processes=1)
        )
        launches.append(Launch(f"two-{name}", both | {"output": tmp_path / f"two-{name}"}))
    told = launched(tmp_path / "said", launches)
    for name in ("plain", "skip"):
        assert told[f"two-{name}"].codes == [0, 0], told[f"two-{name}"].stderr
        one, two = (json.loads((tmp_path / f"{many}-{name}" / "report.json").read_text()) for many in ("one", "two"))
        tensors, expected = trained_tensors(tmp_path / f"two-{name}"), trained_tensors(tmp_path / f"one-{name}")
        assert max((tensors[key] - expected[key]).abs().max().item() for key in tensors if tensors[key].numel()) <= 1e-6
        assert two["windows"] == one["windows"] and two["windows"]["train"]["texts"] > 0 and two["examples"] == one["examples"]
        for ours, theirs in zip([*two["history"], two["test"]], [*one["history"], one["test"]], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
