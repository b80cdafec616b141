"""`train` interrupted: Ctrl-C, checkpoints, and going on as if nothing had happened."""

import re
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from interruption import press_ctrl_c
from tiny_runs import assert_same, silent, trained_tensors
from tiny_task import texts, write_jsonl

from clm_kernels.finetune import Classifier, TrainConfig, recipe, train
from clm_kernels.finetune.checkpoints import drop_checkpoints, last_checkpoint
from clm_kernels.finetune.interruption import Interruption

# Interruption and resuming


@pytest.mark.parametrize(("step", "times", "checkpoint"), [(8, 1, 8), (12, 1, 12), (8, 2, 6), (18, 1, 18)])
def test_ctrl_c_then_resume_equals_no_break(finished, tmp_path, monkeypatch, step, times, checkpoint):
    """Six steps an epoch: in the middle of the second, at its end, at once, and at the very end."""
    config, report = finished
    config = replace(config, output=str(tmp_path / "o"))
    former = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as context:
        press_ctrl_c(context, step, times)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    assert signal.getsignal(signal.SIGINT) is former
    assert last_checkpoint(tmp_path / "o" / "checkpoints").name == f"checkpoint-{checkpoint}"
    assert not (tmp_path / "o" / "report.json").exists()
    resumed = train(TrainConfig(output=config.run.output, resume=True), silent)
    assert_same(trained_tensors(config.run.output), trained_tensors(finished[0].run.output))
    assert resumed.test == report.test
    scores = [[line["accuracy"] for line in run.history] for run in (resumed, report)]
    assert scores[0] == scores[1]


def test_ctrl_c_after_the_last_checkpoint_is_not_lost():
    with pytest.raises(KeyboardInterrupt), Interruption(silent):
        signal.raise_signal(signal.SIGINT)


def test_validating_every_few_steps(base, tmp_path, monkeypatch):
    config = replace(base, eval_steps=4, epochs=1.5)
    whole = train(replace(config, output=str(tmp_path / "a")), silent)
    assert [line["step"] for line in whole.history] == [4, 8, 9]
    with monkeypatch.context() as context:
        press_ctrl_c(context, 6)
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, output=str(tmp_path / "b")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert [line["accuracy"] for line in resumed.history] == [line["accuracy"] for line in whole.history]
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


def test_resume_with_bf16_weights_and_accumulation(base, tmp_path, monkeypatch):
    """The float32 masters come back too: without them, the resumed run would round differently."""
    config = replace(base, dtype="bfloat16", gradient_accumulation=2, learning_rate=1e-3, epochs=4)
    train(replace(config, output=str(tmp_path / "a")), silent)
    with monkeypatch.context() as context:
        press_ctrl_c(context, 9)
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, output=str(tmp_path / "b")), silent)
    train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    tensors = trained_tensors(tmp_path / "a")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert_same(tensors, trained_tensors(tmp_path / "b"))
    assert Classifier.load(tmp_path / "a").model.dtype == torch.bfloat16


def test_resume_with_early_stopping_counts_on(base, tmp_path, monkeypatch):
    config = replace(base, epochs=8, patience=2)
    whole = train(replace(config, output=str(tmp_path / "a")), silent)
    assert len(whole.history) < 8
    with monkeypatch.context() as context:
        press_ctrl_c(context, 6 * len(whole.history) - 4)  # after the first of the two validations that did not better it
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, output=str(tmp_path / "b")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert len(resumed.history) == len(whole.history)
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


def test_ctrl_c_before_the_first_checkpoint_leaves_nothing(base, tmp_path, monkeypatch):
    press_ctrl_c(monkeypatch, 2, times=2)
    with pytest.raises(KeyboardInterrupt):
        train(replace(base, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()


def test_a_broken_checkpoint_is_passed_over(finished, tmp_path, monkeypatch):
    config = replace(finished[0], output=str(tmp_path / "o"))
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8, times=2)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    checkpoints = tmp_path / "o" / "checkpoints"
    broken = shutil.copytree(checkpoints / "checkpoint-6", checkpoints / "checkpoint-12")
    (broken / "trainer_state.json").write_text('{"epoch": 2')
    assert last_checkpoint(checkpoints).name == "checkpoint-6"
    train(TrainConfig(output=config.run.output, resume=True), silent)
    assert_same(trained_tensors(config.run.output), trained_tensors(finished[0].run.output))


def test_resume_refuses_what_is_another_run(finished, tmp_path, monkeypatch):
    data = {part: shutil.copy(finished[0].options()[part], tmp_path) for part in ("train", "validation", "test")}
    config = replace(finished[0], output=str(tmp_path / "o"), **data)
    with pytest.raises(ValueError, match="output must be the folder of a run to resume"):
        train(replace(config, resume=True), silent)
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    with pytest.raises(ValueError, match=re.escape("density must be 0.1 as in the run to resume, got 0.5")):
        train(replace(config, density=0.5, resume=True), silent)
    write_jsonl(tmp_path / "train.jsonl", texts(48, 7))
    with pytest.raises(ValueError, match="the data must be as it was"):
        train(replace(config, resume=True), silent)


def test_a_finished_run_is_not_resumed(finished):
    with pytest.raises(ValueError, match=r"output must be an unfinished run to resume, got .*, which is finished"):
        train(replace(finished[0], resume=True), silent)


# Checkpoints after the end


def test_checkpoints_are_kept_where_asked_for_also_by_who_resumes(finished, tmp_path, monkeypatch):
    config = replace(finished[0], output=str(tmp_path / "o"))
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    assert {path.name for path in (tmp_path / "o" / "checkpoints").iterdir()} == {"checkpoint-6", "checkpoint-8"}
    train(TrainConfig(output=config.run.output, resume=True, keep_checkpoints=True), silent)
    assert (tmp_path / "o" / "report.json").is_file()
    assert last_checkpoint(tmp_path / "o" / "checkpoints").name == "checkpoint-18"
    train(replace(config, overwrite=True), silent)
    assert not (tmp_path / "o" / "checkpoints").exists()


def test_checkpoints_go_last_and_nothing_else_goes(finished, tmp_path, monkeypatch):
    """An error while they are removed leaves the result; what a logger has put beside them is not ours."""
    output = tmp_path / "o"

    def drop(folder):
        assert (output / "report.json").is_file() and last_checkpoint(folder) is not None
        (folder / "runs").mkdir()
        drop_checkpoints(folder)
        raise OSError("a busy file")

    monkeypatch.setattr(recipe, "drop_checkpoints", drop)
    with pytest.raises(OSError, match="a busy file"):
        train(replace(finished[0], output=str(output)), silent)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["runs"]
    assert_same(trained_tensors(output), trained_tensors(finished[0].run.output))


def test_a_run_that_fails_keeps_its_checkpoints(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        context.setattr(recipe, "_save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(replace(finished[0], output=str(tmp_path / "o")), silent)
    train(TrainConfig(output=str(tmp_path / "o"), resume=True), silent)
    assert_same(trained_tensors(tmp_path / "o"), trained_tensors(finished[0].run.output))
