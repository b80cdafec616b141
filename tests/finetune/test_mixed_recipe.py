"""`train --method head --mix-layers`: trained, resumed, saved and read again; refused where it cannot be."""

from dataclasses import replace

import pytest
import torch
from command_line import run
from interruption import press_ctrl_c
from tiny_runs import assert_same, silent, trained_tensors
from tiny_task import sentences, texts, write_data, write_jsonl

from clm_kernels import Delta
from clm_kernels.finetune import Classifier, TrainConfig, train
from clm_kernels.finetune.beginning import begin
from clm_kernels.finetune.fitting import fit
from clm_kernels.finetune.methods import METHODS
from clm_kernels.finetune.recipe import begin_report
from clm_kernels.measure.estimate import estimate
from clm_kernels.models.features import Features
from clm_kernels.models.mixing import NAME

MIXED = {"method": "head", "mix_layers": True}


@pytest.fixture(scope="module")
def mixed(base, tmp_path_factory):
    """A finished run: its config, report and what it said."""
    config, said = replace(base, **MIXED, output=str(tmp_path_factory.mktemp("mixed") / "o")), []
    return config, train(config, said.append), said


def test_it_learns_on_features_and_keeps_the_base(mixed):
    config, report, said = mixed
    assert report.best["accuracy"] > 0.9
    assert any(line.startswith("replaying 2 of 2 layers; what they gave for ") for line in said)
    delta = Delta.load(f"{config.run.output}/delta.safetensors")
    assert delta.recipe.mix_layers and len(delta.selection) == 0
    assert delta.whole.keys() == {"classifier.weight", "classifier.bias", f"{NAME}.scalars", f"{NAME}.gamma"}
    assert not torch.equal(delta.whole[f"{NAME}.scalars"], torch.tensor([0.0, 0.0, 2.0]))


@pytest.mark.parametrize("make", [texts, sentences])
def test_predictions_are_the_same_bits_after_loading(base, tmp_path, make):
    config = replace(base, **MIXED, **write_data(tmp_path, make), output=str(tmp_path / "o"), task="auto", epochs=1)
    train(config, silent)
    begun = begin(replace(config, output=str(tmp_path / "again")), silent)
    loaded = Classifier.load(tmp_path / "o")
    delta, model = Delta.load(tmp_path / "o" / "delta.safetensors"), begun.loaded.model
    with torch.no_grad():
        for name, tensor in delta.whole.items():
            model.get_parameter(name).copy_(tensor)
    rows = [row["text"] if "text" in row else row["tokens"] for row in make(12, 5)]
    before = Classifier(model, begun.loaded.tokenizer, begun.task, begun.limit)
    before.calibration = loaded.calibration
    assert list(loaded.predict(rows)) == list(before.predict(rows))


def test_a_resumed_run_ends_at_the_same_bits(mixed, tmp_path, monkeypatch):
    config = replace(mixed[0], output=str(tmp_path / "o"))
    with monkeypatch.context() as context:
        press_ctrl_c(context, 9)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    recorded = []
    former = Features._record
    monkeypatch.setattr(
        Features, "_record", lambda self, given: (recorded.append(len(given["input_ids"])), former(self, given))[1]
    )
    resumed = train(TrainConfig(output=config.run.output, resume=True), silent)
    assert sum(recorded) <= 48 + 18 + 18  # each text once: a checkpoint that is loaded brings the same base
    assert_same(trained_tensors(config.run.output), trained_tensors(mixed[0].run.output))
    assert resumed.test == mixed[1].test


def test_nothing_below_the_head_changes(base, tmp_path):
    config = replace(base, **MIXED, output=str(tmp_path / "o"))
    run = begin(config, silent)
    model = run.loaded.model
    before = {name: tensor.clone() for name, tensor in model.base_model.state_dict().items()}
    choice = run.method.choose(run.config, run.loaded, run.splits["train"])
    prepared = run.method.prepare(model, run.config, choice.selection, head=run.loaded.head)
    fit(run, prepared, begin_report(run, choice.selection, prepared, 0, 0.0), silent)
    assert_same(dict(model.base_model.state_dict()), before)
    assert not torch.equal(model.scalar_mix.scalars.cpu(), torch.tensor([0.0, 0.0, 2.0]))


def test_with_merged_tokens_it_trains_without_replay(base, tmp_path):
    """Their embedding rows are trained, so that nothing below is frozen."""
    rows = [row | {"text": f"please {row['text'].split()[-1]} now"} for row in texts(48, 0)]
    said, train_file = [], write_jsonl(tmp_path / "train.jsonl", rows)
    config = replace(base, **MIXED, train=train_file, merge_tokens=2, merge_by="score", epochs=1, output=str(tmp_path / "o"))
    train(config, said.append)
    assert any(line.startswith("every epoch runs every layer, as there is no replay") for line in said)
    assert Delta.load(tmp_path / "o" / "delta.safetensors").recipe.mix_layers
    assert next(iter(Classifier.load(tmp_path / "o").predict(["please refund now"]))).label


def test_from_the_command_line(base, tmp_path):
    line = ["train", "--model", base.data.model, "--train", base.data.train, "--output", str(tmp_path / "o"), "--epochs", "1"]
    result = run(*line, "--pooling", "mean", "--method", "head", "--mix-layers", "--sensitivity-examples", "24")
    assert result.exit_code == 0 and Delta.load(tmp_path / "o" / "delta.safetensors").recipe.mix_layers


class TestRefused:
    @pytest.mark.parametrize("method", [method for method in METHODS if method != "head"])
    def test_other_methods(self, base, tmp_path, method):
        with pytest.raises(ValueError, match=rf"^train: mix_layers must be left out with the method {method}, got True"):
            train(replace(base, mix_layers=True, method=method, output=str(tmp_path / "o")), silent)

    def test_native_pooling(self, base, tmp_path):
        with pytest.raises(
            ValueError, match=r"^train: pooling must be last, mean, max or cls where layers are mixed, got 'native'"
        ):
            train(replace(base, **MIXED, pooling="native", output=str(tmp_path / "o")), silent)
        assert not (tmp_path / "o").exists()

    def test_an_export(self, mixed, tmp_path):
        with pytest.raises(
            ValueError, match=r"^export: the model must be one whose head reads the last layer alone, got one that"
        ):
            Classifier.load(mixed[0].run.output).export(tmp_path / "plain")
        assert not (tmp_path / "plain").exists()

    def test_an_estimate(self, base):
        from transformers import AutoConfig

        with pytest.raises(ValueError, match=r"^estimate: mix_layers must be left out"):
            estimate(AutoConfig.from_pretrained(base.data.model), TrainConfig(**MIXED))
