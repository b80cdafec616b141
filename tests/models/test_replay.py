"""`replay`: frozen lower layers run once for each text, and training goes on as if they ran every time."""

from contextlib import nullcontext
from dataclasses import replace as changed

import models
import pytest
import torch
from command_line import run
from interruption import press_ctrl_c
from models import build
from replays import BELOW, outcome, part, upper
from tiny_runs import assert_same, silent, trained_tensors
from tolerances import assert_close

import clm_kernels as clm
from clm_kernels.finetune import TrainConfig, train
from clm_kernels.measure.estimate.operations import flops
from clm_kernels.models.recomputing import checkpoint_layers
from clm_kernels.models.structure import depths, layers_of

STACKED = [family for family in models.CONFIGS if family != "albert"]  # whose layers share their weights


@pytest.mark.parametrize("task", ["sequence", "token"])
@pytest.mark.parametrize("family", STACKED)
def test_replayed_equals_run_in_every_family(family, task):
    if task == "token" and family in ("opt", "gemma3", "gptj"):
        pytest.skip("transformers has no token classification for it")
    model = upper(family, task=task).eval()  # transformers drops out before some heads, whatever the config says
    whole = models.batch(model, task=task)
    if task == "token":
        whole["labels"] = whole["labels"].where(whole["attention_mask"] > 0, -100)
    batches = [whole, part(whole, [2, 0, 1], 9), part(whole, [0], 6), whole]
    expected = [outcome(model, batch) for batch in batches]
    with clm.replay(model) as kept:
        found = [outcome(model, batch) for batch in batches]
        assert kept.layers == BELOW
        assert kept.texts == 4
    for (logits, gradients), (its_logits, its_gradients) in zip(expected, found, strict=True):
        real = slice(None) if task == "sequence" else slice(0, 5)
        assert_close(its_logits[:, real], logits[:, real])
        assert its_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert_close(its_gradients[name], gradient)


def test_the_layers_below_run_once_for_each_text():
    model, ran = upper(), []
    for i, layer in enumerate(layers_of(model)):
        layer.attention.register_forward_hook(lambda module, args, output, i=i: ran.append((i, len(args[0]))))
    batch = models.batch(model)
    with clm.replay(model):
        for _ in range(3):
            model(**batch)
        assert ran == [(0, 4), (1, 4), (2, 4), (2, 4), (2, 4)]
        ran.clear()
        new = {name: tensor.clone() for name, tensor in batch.items()}
        new["input_ids"][2, 3] += 1
        model(**new)
        assert ran == [(0, 1), (1, 1), (2, 4)]  # of a batch with one new text, that text alone
    ran.clear()
    model(**batch)
    assert ran == [(0, 4), (1, 4), (2, 4)]


def test_a_step_saves_the_forward_of_the_layers_below():
    model = upper()
    batch = models.batch(model)
    whole = flops(lambda: model(**batch).loss.backward())
    with clm.replay(model):
        first, later = (flops(lambda: model(**batch).loss.backward()) for _ in range(2))
    assert first >= whole
    assert 0.25 < (whole - later) / whole < 0.5  # forward and backward are one part in three layers, and two in one


def test_nothing_below_is_dropped_out_and_the_mode_stays():
    model = upper(dropout=0.5, dtype=torch.float32)
    batch = models.batch(model)
    seen = []
    layers_of(model)[BELOW].register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    model.eval()(**batch)
    with clm.replay(model.train()) as kept:
        model(**batch)
        assert all(module.training for module in model.modules())
        kept.clear()
        model(**batch)
    real = batch["attention_mask"].bool()
    for hidden in seen[1:]:
        assert torch.equal(hidden[real], seen[0][real])


def test_training_with_a_selection_ends_at_the_same_weights():
    def trained(replayed):
        model = build(num_hidden_layers=3, dtype=torch.float64)
        selection = clm.Selection(
            {name: e for name, e in models.select(model).items() if depths(model)[name] >= BELOW}
        )  # fmt: skip
        clm.patch(model, selection, biases=True, norms=True)
        optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
        kept = clm.replay(model) if replayed else None
        for step in range(6):
            outcome(model, models.batch(model, seed=step % 3))
            optimizer.step()
        if kept is not None:
            assert kept.texts == 12
            kept.restore()
        return model

    plain, replayed = trained(False), trained(True)
    for a, b in zip(plain.parameters(), replayed.parameters(), strict=True):
        assert_close(b.detach(), a.detach())
    assert type(plain) is type(replayed) and plain.state_dict().keys() == replayed.state_dict().keys()


def test_token_types_tell_texts_apart():
    model = upper()
    batch = models.batch(model)
    second = {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])}
    expected = [outcome(model, given)[0] for given in (batch, second)]
    with clm.replay(model) as kept:
        for _ in range(2):
            for given, logits in zip((batch, second), expected, strict=True):
                assert_close(outcome(model, given)[0], logits)
        assert kept.texts == 8


def test_what_changes_below_is_seen():
    model = upper()
    batch = models.batch(model)
    with clm.replay(model) as kept:
        model(**batch)
        with torch.no_grad():
            layers_of(model)[0].output.dense.weight.mul_(1.5)
        found = model(**batch).logits
        assert kept.texts == 4
    assert_close(found, model(**batch).logits)


def test_no_more_is_kept_than_allowed():
    model = upper()
    batch = models.batch(model)
    expected = outcome(model, batch)[0]
    token = 32 * 8
    with clm.replay(model, max_bytes=2 * 7 * token + 1) as kept:
        for _ in range(2):
            assert_close(outcome(model, batch)[0], expected)
        assert (kept.texts, kept.nbytes) == (2, 12 * token)  # a text of five tokens and one of seven
    assert kept.texts == 0 == kept.nbytes


def test_a_head_is_warmed_up_beyond_what_is_kept():
    warmed = []
    for replayed in (False, True):
        model = build(dtype=torch.float64)
        whole = models.batch(model)
        batches = [part(whole, [0], 6), whole, part(whole, [2, 0, 1], 9)]
        clm.patch(model, clm.Selection())
        with clm.replay(model, max_bytes=10 * 32 * 8) if replayed else nullcontext():
            clm.warm_up_head(model, batches)
        warmed.append(model.classifier.weight.detach())
    assert_close(*warmed)


def test_filled_before_training():
    model = upper()
    batch = models.batch(model)
    expected = outcome(model, batch)[0]
    with clm.replay(model) as kept:
        kept.fill([batch])
        assert kept.texts == 4
        layers_of(model)[0].attention.register_forward_hook(lambda *_: pytest.fail("it ran again"))
        assert_close(outcome(model, batch)[0], expected)


def test_the_head_alone():
    """All layers are replayed; what stands above them runs."""
    for family in ("bert", "llama", "albert"):
        model = build(family, dtype=torch.float64)
        clm.patch(model, clm.Selection())
        batch = models.batch(model)
        expected = outcome(model, batch)
        with clm.replay(model):
            for _ in range(2):
                found = outcome(model, batch)
                assert_close(found[0], expected[0])
                assert found[1].keys() == expected[1].keys()


def test_gradient_checkpointing_computes_the_upper_layers_again():
    model = upper("llama")
    batch = models.batch(model)
    expected = outcome(model, batch)
    checkpoint_layers(model)
    with clm.replay(model):
        for _ in range(2):
            found = outcome(model, batch)
            assert_close(found[0], expected[0])
            for name, gradient in expected[1].items():
                assert_close(found[1][name], gradient)


def test_bidirectional_layers_below_stay_so():
    model = clm.bidirectional(upper("llama"), (0, 2)).model
    batch = models.batch(model)
    expected = outcome(model, batch)[0]
    with clm.replay(model):
        for _ in range(2):
            assert_close(outcome(model, batch)[0], expected)
    assert not torch.allclose(outcome(clm.causal(model).model, batch)[0], expected)


class TestRefused:
    def test_a_model_trained_from_the_bottom(self):
        with pytest.raises(ValueError, match=r"^replay: model must be trained in its upper layers alone, got one trained from"):
            clm.replay(build())

    def test_layers_that_share_their_weights(self):
        with pytest.raises(ValueError, match=r"^replay: model must be trained in its upper layers alone"):
            clm.replay(build("albert"))

    def test_no_layers(self):
        with pytest.raises(ValueError, match=r"^layers_of: the model must have one stack of numbered layers, got Linear"):
            clm.replay(torch.nn.Linear(2, 2))

    def test_padding_on_the_left(self):
        model = upper()
        batch = models.batch(model)
        batch["attention_mask"] = batch["attention_mask"].flip(1)
        with (
            clm.replay(model),
            pytest.raises(ValueError, match=r"^replay: texts must be padded on the right .*, got padding before"),
        ):
            model(**batch)

    def test_other_inputs(self):
        model = upper()
        embedded = torch.randn(2, 3, 32, dtype=torch.float64)
        with clm.replay(model), pytest.raises(ValueError, match=r"^replay: inputs must be of input_ids, .*, got inputs_embeds$"):
            model(inputs_embeds=embedded)

    def test_the_model_is_whole_again_after_an_error(self):
        model = upper()
        batch = models.batch(model)
        expected = outcome(model, batch)[0]
        with pytest.raises(IndexError), clm.replay(model):
            model(input_ids=torch.full((1, 3), 10**6))
        assert torch.equal(outcome(model, batch)[0], expected)
        assert all(module.training for module in model.modules())


UPPER = {"layers": "upper half", "replay": True}


def replaying(line):
    return line.startswith("replaying ")


def test_train_replays(base, tmp_path):
    said = []
    report = train(changed(base, **UPPER, output=str(tmp_path / "a")), said.append)
    assert any(line.startswith("replaying 1 of 2 layers; what they gave for ") for line in said)
    assert report.best["accuracy"] > 0.9 and 0 < report.seconds["replay"] < report.seconds["training"]
    again = train(changed(base, **UPPER, output=str(tmp_path / "b")), silent)
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))
    assert again.test == report.test


def test_a_resumed_run_replays_the_same_numbers(base, tmp_path, monkeypatch):
    config = changed(base, **UPPER)
    train(changed(config, output=str(tmp_path / "a")), silent)
    with monkeypatch.context() as context:
        press_ctrl_c(context, 9)
        with pytest.raises(KeyboardInterrupt):
            train(changed(config, output=str(tmp_path / "b")), silent)
    train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


def test_train_says_early_that_nothing_can_be_replayed(base, tmp_path):
    for more in ({}, {"method": "full"}):
        with pytest.raises(ValueError, match=r"^train: replay must be left out unless layers, backward or a selection leave"):
            train(changed(base, replay=True, output=str(tmp_path / "o"), **more), silent)
    assert not (tmp_path / "o").exists()


def test_from_the_command_line(base, tmp_path):
    line = ["train", "--model", base.data.model, "--train", base.data.train, "--output", str(tmp_path / "o"), "--epochs", "1"]
    result = run(*line, "--method", "head", "--replay", "--sensitivity-examples", "24")
    assert result.exit_code == 0 and "replaying 2 of 2 layers" in result.stderr


def test_train_replays_from_a_file_that_later_runs_read(base, tmp_path):
    file, said = str(tmp_path / "kept"), []
    for name in "ab":
        train(changed(base, **UPPER, replay_file=file, output=str(tmp_path / name)), said.append)
    train(changed(base, **UPPER, output=str(tmp_path / "c")), silent)
    assert [
        line.endswith(f"({file}: {done})") for line, done in zip(filter(replaying, said), ("written", "read"), strict=True)
    ] == [True] * 2
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "c"))
    with pytest.raises(ValueError, match=r"^train: replay_file must be left out without replay, got "):
        train(changed(base, replay_file=file, output=str(tmp_path / "d")), silent)


def test_the_method_head_replays_unless_it_is_told_not_to(base, tmp_path):
    said = []
    report = train(changed(base, method="head", output=str(tmp_path / "a")), said.append)
    assert len(list(filter(replaying, said))) == 1
    assert report.spent[0] == pytest.approx(1 / 3, abs=0.01) and max(report.spent[1:]) < 0.01
    told = train(changed(base, method="head", replay=False, output=str(tmp_path / "b")), said.append)
    assert len(list(filter(replaying, said))) == 1 and min(told.spent) == pytest.approx(1 / 3, abs=0.01)


def test_the_method_head_says_why_a_model_has_no_replay(base, tmp_path, monkeypatch):
    def refuse(model):
        raise ValueError("no stack")

    monkeypatch.setattr("clm_kernels.models.replay.layers_of", refuse)
    monkeypatch.setattr("clm_kernels.models.features.number_of_layers", refuse)
    said = []
    report = train(changed(base, method="head", output=str(tmp_path / "a")), said.append)
    assert "every epoch runs every layer, as there is no replay: no stack" in said
    assert min(report.spent) > 0.3
    with pytest.raises(ValueError, match="no stack"):
        train(changed(base, method="head", replay=True, output=str(tmp_path / "b")), silent)
