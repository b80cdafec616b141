"""`train --long window`: each text counts once in the loss, and every score is that of one prediction a text."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import run
from long_texts import LIMIT, in_windows, long_several, long_texts, rows_of
from tiny_runs import PLAIN, assert_same, base, silent, trained_tensors  # noqa: F401
from tiny_task import write_data

import clm_kernels as clm
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.beginning import begin
from clm_kernels.finetune.checking.checked import check_files
from clm_kernels.finetune.fitting import _trainer
from clm_kernels.finetune.judging.calibration import softmax


@pytest.fixture(scope="module")
def windowed(base, tmp_path_factory):  # noqa: F811
    return in_windows(base, tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def finished(windowed, tmp_path_factory):
    """Config, report, and what was said."""
    said = []
    config = replace(windowed, output=str(tmp_path_factory.mktemp("run") / "out"))
    return config, train(config, said.append), said


# The loss


def trainer_of(config):
    """The run, and the trainer that it would have."""
    begun = begin(config, silent)
    prepared = begun.method.prepare(begun.loaded.model, begun.config, clm.Selection(), head=begun.loaded.head)
    begun.loaded.model.eval()
    trainer = _trainer(begun, prepared, None, silent, [], [])
    if trainer.teaching:
        trainer.teaching.chance.fill_(1)  # as in the first epoch
    return begun, trainer


def gradients(model, loss):
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_hand(begun):
    """The mean over the texts of the mean over the windows of each, one window at a time."""
    model, names, tokenizer = begun.loaded.model, begun.corpus.label_names, begun.loaded.tokenizer
    of_texts, split, windows = [], begun.splits["train"].split, begun.splits["train"].windows
    for i in range(len(split)):
        losses = []
        for row in np.flatnonzero(windows.owners == i):
            logits = model(**tokenizer(windows.rows.texts[int(row)], return_tensors="pt")).logits
            if begun.task.several:
                target = torch.tensor([[float(name in split.labels[i]) for name in names]])
                losses.append(F.binary_cross_entropy_with_logits(logits, target))
            else:
                losses.append(F.cross_entropy(logits, torch.tensor([names.index(split.labels[i])])))
        of_texts.append(sum(losses) / len(losses))
    return sum(of_texts) / len(of_texts)


@pytest.mark.parametrize("make", [long_texts, long_several])
@pytest.mark.parametrize("options", [{}, {"skip": 0.2}], ids=["plain", "skip"])
def test_the_loss_and_its_gradient_are_the_mean_over_the_windows_of_each_text(base, tmp_path, make, options):  # noqa: F811
    data = write_data(tmp_path, make, 8)
    begun, trainer = trainer_of(
        TrainConfig(
            model=base.data.model, **data, **PLAIN | {"batch_size": 64}, method="full", max_length=LIMIT, long="window",
            output=str(tmp_path / "o"), **options,
        )
    )  # fmt: skip
    model = begun.loaded.model
    (batch,) = trainer.get_train_dataloader()
    found = trainer.compute_loss(model, trainer._prepare_inputs(dict(batch)))
    expected = by_hand(begun)
    assert len(batch["labels"]) == len(begun.splits["train"].dataset) > len(begun.corpus.train)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(model, found), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"skip": 0.2}], ids=["plain", "skip"])
def test_smaller_batches_have_the_same_mean(windowed, tmp_path, options):
    begun, trainer = trainer_of(windowed.beside(output=str(tmp_path / "o"), **options))
    total = torch.zeros(())
    for batch in trainer.get_train_dataloader():
        rows = len(batch["labels"])
        total += trainer.compute_loss(begun.loaded.model, trainer._prepare_inputs(dict(batch))).detach() * rows
    assert float(total) / len(begun.splits["train"].dataset) == pytest.approx(by_hand(begun).item(), rel=1e-5)


def test_what_an_example_teaches_is_told_by_its_part_of_the_text(windowed, tmp_path):
    begun, trainer = trainer_of(windowed.beside(output=str(tmp_path / "o"), skip=0.2))
    for batch in trainer.get_train_dataloader():
        trainer.compute_loss(begun.loaded.model, trainer._prepare_inputs(dict(batch)))
    weights, teaching = torch.from_numpy(begun.splits["train"].weights), trainer.teaching
    given = torch.cat([norms for _, norms, _ in teaching._read]).double()
    rows = torch.cat([rows for rows, _, _ in teaching._read])
    teaching._share("cpu")
    torch.testing.assert_close(teaching.norms[rows], given * weights[rows], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", ["sparse", "head"])
def test_texts_that_all_fit_give_the_same_bits(base, tmp_path, method):  # noqa: F811
    options = {"model": base.data.model, "train": base.data.train, "validation": base.data.validation, "test": base.data.test}
    reports = {}
    for long in ("truncate", "window"):
        config = TrainConfig(**options, **PLAIN | {"epochs": 2}, method=method, long=long, output=str(tmp_path / long))
        reports[long] = train(config, silent)
    assert reports["window"].history == reports["truncate"].history and reports["window"].test == reports["truncate"].test
    assert_same(trained_tensors(tmp_path / "truncate"), trained_tensors(tmp_path / "window"))
    assert reports["window"].windows == {}


# The scores


def test_it_says_how_many_texts_were_read_in_how_many_windows(finished):
    config, report, said = finished
    for part in ("train", "validation", "test"):
        counts = report.windows[part]
        assert 0 < counts["texts"] < len(rows_of(getattr(config.data, part))) and counts["windows"] > 2 * counts["texts"]
        told = f"{part}: {counts['texts']} texts beyond 10 tokens are read in {counts['windows']} windows (max_length sets the limit)"
        assert told in said
    assert report.cut == {"train": 0, "validation": 0, "test": 0} and report.data["train"]["rows"] == 48
    windows = report.windows["train"]["windows"] - report.windows["train"]["texts"] + 48
    assert [line["step"] for line in report.history] == [-(-windows // 8) * epoch for epoch in (1, 2)]
    assert f"({report.windows['test']['texts']} in {report.windows['test']['windows']} windows)" in page_of(config)


def page_of(config):
    with open(f"{config.run.output}/report.html") as file:
        return file.read()


def test_validation_and_test_are_scored_as_predict_predicts(finished):
    config, report, _ = finished
    made = Classifier.load(config.run.output)
    assert made.long == "window"
    for part, scores in (("validation", report.best), ("test", report.test)):
        rows = rows_of(getattr(config.data, part))
        predicted = [found.label for found in made.predict([row["text"] for row in rows])]
        assert scores["accuracy"] == np.mean([label == row["label"] for label, row in zip(predicted, rows)])
        cut = [found.label for found in made.predict([row["text"] for row in rows], long="truncate")]
        assert predicted != cut  # else it tells nothing
        shares = made.predict_proba([row["text"] for row in rows])
        logits = np.log(shares) * made.calibration.temperature
        gold = [made.label_names.index(row["label"]) for row in rows]
        loss = -np.log(softmax(logits, 1.0)[np.arange(len(rows)), gold]).mean()
        assert scores["loss"] == pytest.approx(loss, abs=1e-4)
    assert report.calibration["rows"] == 18


def test_a_window_is_read_as_predict_reads_it(finished):
    """The mean of the logits, one window at a time, on the model alone."""
    config, _, _ = finished
    made = Classifier.load(config.run.output)
    text = rows_of(config.data.test)[3]["text"]
    split = clm.finetune.split.Split("", [text], [None], [0])
    parts = made._task.windows(split, made.tokenizer, LIMIT).rows.texts
    assert len(parts) > 2
    with torch.no_grad():
        logits = [made.model(**made.tokenizer(part, return_tensors="pt")).logits[0] for part in parts]
    expected = (torch.stack(logits).mean(0) / made.calibration.temperature).softmax(-1)
    np.testing.assert_allclose(made.predict_proba(text), expected.numpy(), atol=1e-5)


def test_evaluate_says_the_same(finished, tmp_path):
    config, report, _ = finished
    found = clm.evaluate(config.run.output, config.data.test, tmp_path / "e", draws=20)
    assert found.scores["accuracy"].score == report.test["accuracy"] and found.items == 18
    errors = (tmp_path / "e" / "errors.csv").read_text().splitlines()
    assert len(errors) == 1 + found.errors == 1 + round(18 * (1 - report.test["accuracy"]))
    validated = clm.evaluate(config.run.output, config.data.validation, tmp_path / "v", draws=20)
    assert validated.calibration_error == pytest.approx(report.calibration["error_after"], abs=1e-6)


def test_the_scope_is_that_of_texts(finished):
    config, report, _ = finished
    made = Classifier.load(config.run.output)
    validation = [row["text"] for row in rows_of(config.data.validation)]
    inside = [not found.out_of_scope for found in made.predict(validation, out_of_scope=True)]
    assert report.scope["rows"] == 18 and np.mean(inside) == pytest.approx(report.scope["kept"])


def test_the_commands_read_windows_without_being_told(finished, tmp_path):
    config, report, _ = finished
    lines = run("predict", "--model", config.run.output, "--jsonl", config.data.test).stdout.splitlines()
    rows = rows_of(config.data.test)
    right = np.mean([json.loads(line)["label"] == row["label"] for line, row in zip(lines, rows, strict=True)])
    assert right == report.test["accuracy"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_method_leaves_what_knows_of_windows(windowed, tmp_path, method):
    data = windowed.data
    options = {"model": data.model, "train": data.train, "validation": data.validation, "test": data.test}
    config = TrainConfig(
        **options, **PLAIN | {"epochs": 1}, max_length=LIMIT, long="window", method=method, output=str(tmp_path / "o")
    )
    report = train(config, silent)
    made = Classifier.load(tmp_path / "o")
    rows = rows_of(data.test)
    right = np.mean([found.label == row["label"] for found, row in zip(made.predict([r["text"] for r in rows]), rows)])
    assert made.long == "window" and right == report.test["accuracy"]
    made.export(tmp_path / "plain")
    assert Classifier.load(tmp_path / "plain").long == "window"


def test_a_base_that_read_windows_makes_no_windows(finished, tmp_path):
    config, _, _ = finished
    Classifier.load(config.run.output).export(tmp_path / "base")
    assert Classifier.load(tmp_path / "base").long == "window"
    data = config.data
    again = TrainConfig(
        model=str(tmp_path / "base"), train=data.train, validation=data.validation, **PLAIN | {"epochs": 1}, method="full",
        output=str(tmp_path / "o"),
    )  # fmt: skip
    train(again, silent)
    assert Classifier.load(tmp_path / "o").long == "truncate"


def test_the_run_file_does_it_again(finished, tmp_path):
    config, *_ = finished
    done = run("train", "--config", f"{config.run.output}/run.yaml", "--output", tmp_path / "again")
    assert done.exit_code == 0, done.stderr
    assert_same(trained_tensors(config.run.output), trained_tensors(tmp_path / "again"))


def test_check_says_how_many_texts_are_read_in_how_many_windows(finished):
    config, report, _ = finished
    found = {each.code: each for each in check_files(config.data).findings}
    assert not any(code.startswith("cut-") for code in found)
    finding, told = found["windows-train"], report.windows["train"]
    assert (finding.severity, finding.count) == ("note", told["texts"])
    assert f"are read in {told['windows']} windows" in finding.what
    assert "cut-train" in {each.code for each in check_files(replace(config.data, long="truncate")).findings}
