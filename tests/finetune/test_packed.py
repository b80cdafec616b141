"""`train --packing`: the same training, with less padding; counted, resumed, and refused where it cannot be."""

import json
from dataclasses import replace as changed
from pathlib import Path

import pytest
from command_line import run
from interruption import press_ctrl_c
from tiny_runs import FAST, assert_same, silent, trained_tensors
from tiny_task import save_model, sentences, write_data

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.packed import shares
from clm_kernels.models.structure import base_model

PACKED = {"packing": True}


def still(model: str) -> str:
    """A model on disk without dropout, which would be drawn otherwise when packed."""
    path = Path(model) / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({key: 0.0 if "dropout" in key else value for key, value in told.items()}))
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return TrainConfig(model=still(save_model(folder / "model")), **write_data(folder), **FAST)


@pytest.fixture(scope="module")
def packed(base, tmp_path_factory):
    output, said = tmp_path_factory.mktemp("run") / "out", []
    return output, train(changed(base, **PACKED, output=str(output)), said.append), said


def test_the_same_training(base, packed, tmp_path):
    output, report, said = packed
    plain = train(changed(base, output=str(tmp_path / "a")), silent)
    losses = [[line["train_loss"] for line in found.history] for found in (plain, report)]
    assert len(losses[0]) == 3 and losses[0][0] > 1.2 * losses[0][-1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    expected, found = trained_tensors(tmp_path / "a"), trained_tensors(output)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() < 1e-3 * tensor.norm()
    assert report.test == pytest.approx(plain.test, rel=1e-3)
    assert plain.packing == {}
    assert 0 <= report.packing["after"] < 0.6 * report.packing["before"] < 1
    before, after = (f"{report.packing[name]:.1%}" for name in ("before", "after"))
    assert f"packed: {after} of the tokens that ran in training were padding, {before} without packing" in said
    assert json.loads((output / "report.json").read_text())["packing"] == report.packing


def test_packing_is_off_by_default():
    assert TrainConfig().training.packing is False


def test_the_counts_are_those_of_the_batches_that_came(base, tmp_path, monkeypatch):
    from clm_kernels.finetune.trainer import RunTrainer

    came = {"real": 0, "padded": 0, "run": 0}
    original = RunTrainer.training_step

    def training_step(self, model, inputs, *args):
        mask = inputs["attention_mask"]
        came["real"] += int(mask.sum())
        came["padded"] += mask.numel()
        return original(self, model, inputs, *args)

    monkeypatch.setattr(RunTrainer, "training_step", training_step)
    report = train(changed(base, **PACKED, gradient_accumulation=2, output=str(tmp_path / "o")), silent)
    assert report.packing["before"] == 1 - came["real"] / came["padded"]


def test_shares():
    assert shares({"real": 60, "padded": 80, "run": 64}) == {"before": 0.25, "after": 0.0625}
    assert shares({"real": 0, "padded": 0, "run": 0}) == {"before": 0.0, "after": 0.0}


@pytest.mark.parametrize("step", [2, 9])
def test_a_resumed_run_ends_the_same(base, packed, tmp_path, monkeypatch, step):
    output, report, _ = packed
    with monkeypatch.context() as context:
        press_ctrl_c(context, step)
        with pytest.raises(KeyboardInterrupt):
            train(changed(base, **PACKED, output=str(tmp_path / "b")), silent)
    again = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert_same(trained_tensors(output), trained_tensors(tmp_path / "b"))
    assert again.packing == report.packing and again.test == report.test


def test_the_model_is_whole_when_it_is_saved_and_scored(base, tmp_path, monkeypatch):
    from clm_kernels.finetune.trainer import RunTrainer

    packed_at = {}
    for name in ("evaluate", "predict"):
        original = getattr(RunTrainer, name)

        def noted(self, *args, name=name, original=original, **kwargs):
            packed_at[name] = "forward" in vars(base_model(self.model))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(RunTrainer, name, noted)
    train(changed(base, **PACKED, epochs=1, output=str(tmp_path / "o")), silent)
    assert packed_at == {"evaluate": True, "predict": False}


MORE = {  # what goes together with it
    "energy": {"energy": "0.9"},
    "noise": {"noise": 0.1},
    "skip": {"skip": 0.2},
    "cost": {"cost": 0.6},
    "accumulation": {"gradient_accumulation": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "full": {"method": "full"},
    "head": {"method": "head"},
    "native": {"pooling": "native"},
}


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_it_goes_together_with(base, tmp_path, more):
    plain = train(changed(base, **more, output=str(tmp_path / "a")), silent)
    report = train(changed(base, **PACKED, **more, output=str(tmp_path / "b")), silent)
    assert 0 <= report.packing["after"] < report.packing["before"]
    by_chance = 0.1 if more.keys() & {"noise", "cost"} else 1e-3
    assert report.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=by_chance)
    assert len(report.active) == len(plain.active) and len(report.spent) == len(plain.spent)
    if "energy" in more:  # the same tokens, of fewer
        kept = [line["tokens"] for line in (plain.active[0], report.active[0])]
        assert kept[0] < kept[1] < 1
        assert not report.words and not (tmp_path / "b" / "active_tokens.json").exists()
        assert plain.words
    if "cost" in more:
        assert sum(report.spent) / 3 == pytest.approx(0.6, abs=0.1)


def test_lora(base, tmp_path):
    pytest.importorskip("peft")
    report = train(changed(base, **PACKED, method="lora", lora_dropout=0.0, output=str(tmp_path / "o")), silent)
    assert report.packing["after"] < report.packing["before"]


def test_tags(tmp_path):
    data = write_data(tmp_path, sentences)
    options = FAST | PACKED | {"pooling": "auto", "density": 0.3}
    report = train(TrainConfig(model=save_model(tmp_path / "model"), **data, **options, output=str(tmp_path / "o")), silent)
    assert report.packing["after"] < report.packing["before"]
    assert report.history[0]["train_loss"] > 1.5 * report.history[-1]["train_loss"]


def test_a_decoder(tmp_path):
    options = write_data(tmp_path) | FAST | {"pooling": "last", "bidirectional": "upper half"}
    config = TrainConfig(model=still(save_model(tmp_path / "model", "llama")), **options)
    plain = train(changed(config, output=str(tmp_path / "a")), silent)
    report = train(changed(config, **PACKED, output=str(tmp_path / "b")), silent)
    assert report.packing["after"] < report.packing["before"]
    for line, expected in zip(report.history, plain.history, strict=True):
        assert line["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)


class TestRefused:
    def test_another_family_before_anything_is_made(self, tmp_path):
        config = TrainConfig(
            model=save_model(tmp_path / "model", "deberta"), **write_data(tmp_path), **FAST | PACKED, output=str(tmp_path / "o")
        )
        with pytest.raises(
            ValueError, match=r"^train: model must be of a family that is exact when packed .*, got 'deberta-v2'$"
        ):
            train(config, silent)
        assert not (tmp_path / "o").exists()

    def test_with_replay(self, base, tmp_path):
        with pytest.raises(ValueError, match=r"^train: packing and replay must be not both given, got both$"):
            train(changed(base, packing=True, replay=True, layers="upper half", output=str(tmp_path / "o")), silent)
        assert not (tmp_path / "o").exists()


def test_from_the_command_line(base, tmp_path):
    line = ["train", "--model", base.data.model, "--train", base.data.train, "--output", str(tmp_path / "o"), "--epochs", "1"]
    result = run(*line, "--method", "head", "--packing")
    assert result.exit_code == 0 and "packed: " in result.stderr
