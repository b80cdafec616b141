"""`--skip`: which examples stay, that the gradient keeps its mean, and runs that leave examples out."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interruption import press_ctrl_c
from tiny_runs import assert_same, base, silent, trained_tensors  # noqa: F401

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.losses import gradient_norms
from clm_kernels.finetune.teaching import LEAST, STATE, Teaching, chances_for, chances_within

NORMS = torch.tensor([0.0, 1e-3, 0.02, 0.1, 0.4, 0.5, 0.9, 1.0, 1.0, 1.4]).double()


def error_of(norms, chance):
    """Expected squared error of a sum of gradients that are orthogonal, each drawn by itself."""
    return float((norms.square() * (1 / chance - 1)).sum())


def teaching(noise=0.3, norms=NORMS, seed=0):
    made = Teaching([1] * len(norms), partial(chances_within, noise=noise), seed, None, silent)
    made.norms.copy_(norms)
    made.chance.copy_(chances_within(norms, noise))
    return made


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3, 0.9])
def test_the_error_is_what_was_asked_for_and_the_least(noise):
    norms = NORMS[2:]
    found = chances_within(norms, noise, least=1e-9)
    budget = noise * float(norms.square().sum())
    assert error_of(norms, found) == pytest.approx(budget, rel=1e-9)
    assert error_of(norms, chances_within(norms, noise)) <= budget
    tried = 0
    for less in range(len(norms)):
        for more in range(len(norms)):  # as many examples, otherwise chosen
            other = found.clone()
            other[less] -= found[less] / 20
            other[more] += found[less] / 20
            if less != more and other.max() <= 1:
                tried += 1
                assert error_of(norms, other) > error_of(norms, found)
    assert tried >= len(norms) - 1


def test_nothing_is_left_out_without_noise_or_without_gradients():
    assert (chances_within(NORMS, 0.0)[1:] == 1).all() and (chances_within(torch.zeros(5), 0.5) == 1).all()
    assert (chances_within(torch.ones(5), 0.1) < 1).all() and chances_within(NORMS, 0.1).min() == LEAST


def test_a_batch_of_which_all_stay_by_chance_keeps_its_weights():
    """Else an example would weigh one where it stays beside all others, and one over its chance where it does not: too little."""
    made, rows, weighed = teaching(), [5, 6, 7, 9], torch.zeros(4)
    made.chance[rows] = torch.tensor([0.95, 0.9, 1.0, 1.0]).double()
    collate = made.collate(lambda kept: {"number": torch.tensor([each["number"] for each in kept])})
    examples = [{"row": row, "labels": 1, "number": i} for i, row in enumerate(rows)]
    for epoch in range(2000):
        made.epoch = epoch
        batch = collate(examples)
        weights = batch["weight"] * 4 if len(batch["weight"]) else torch.ones(len(batch["number"]))
        weighed[batch["number"]] += weights / 2000
    assert weighed == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("share", [0.15, 0.4, 0.8])
def test_a_share_of_the_tokens_is_met_by_the_same_rule(share):
    lengths = torch.arange(1, len(NORMS) + 1)
    found = chances_for(NORMS, lengths, share)
    assert float(found @ lengths.double() / lengths.sum()) == pytest.approx(share, abs=1e-6)
    inside = (found > LEAST) & (found < 1)
    assert inside.sum() >= 2 and found.min() == LEAST
    assert (NORMS / found)[inside].std() < 1e-6 < inside.sum()  # in proportion to the norms
    assert (found[NORMS > (NORMS / found)[inside][0]] == 1).all()


def test_shares_that_cannot_be_met_by_norms():
    ones = torch.ones(5)
    assert (chances_for(torch.zeros(5), ones, 0.5) == 0.5).all() and (chances_for(NORMS, torch.ones(10), 1.0) == 1).all()
    assert (chances_for(ones, ones, 0.3) - 0.3).abs().max() < 1e-6
    assert chances_for(NORMS, torch.ones(10), 0.01).max() <= LEAST + 1e-6


def test_every_example_has_its_whole_weight_in_the_mean():
    drawn, weight, counts, runs = teaching(), torch.zeros(len(NORMS)), [], 4000
    for drawn.epoch in range(runs):
        order = torch.from_numpy(np.random.default_rng(drawn.epoch).permutation(len(NORMS)))
        for rows in order.split(5):
            places, weights = drawn.draw(rows)
            weight[rows[places]] += weights
            counts.append(len(places) - float(drawn.chance[rows].sum()))
    spread = ((1 / drawn.chance - 1) / runs).sqrt()
    assert ((weight / runs - 1).abs() <= 4 * spread + 1e-6).all()
    assert min(counts) > -1 and max(counts) < 1 + LEAST


def test_a_batch_of_which_nothing_stays_has_one_example_without_weight():
    drawn = teaching(norms=torch.cat([torch.full((4,), 1e-9).double(), NORMS]))
    rows, empty = torch.arange(4), 0
    for drawn.epoch in range(100):
        places, weights = drawn.draw(rows)
        assert len(places) == 1
        empty += not weights.any()
    assert empty > 30


def test_norms_are_those_of_the_gradient_at_the_logits():
    logits = torch.randn(3, 5, 4, requires_grad=True)
    labels = torch.tensor([[0, 1, -100, 3, 2], [-100] * 5, [1, 1, 1, -100, 0]])
    F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    torch.testing.assert_close(gradient_norms(logits.detach(), labels), logits.grad.flatten(1).norm(dim=1))


@pytest.mark.parametrize("shape", [(6,), (6, 5)], ids=["texts", "tags"])
def test_the_loss_of_what_stays_is_weighted(shape):
    made = teaching()
    labels = torch.randint(0, 4, shape)
    if len(shape) == 2:
        labels[:, -1] = -100
    examples = [{"row": i, "labels": labels[i].tolist(), "number": i} for i in range(6)]
    batch = made.collate(lambda kept: {"number": torch.tensor([each["number"] for each in kept])})(examples)
    kept, rows, weights = batch["number"], batch["row"], batch["weight"]
    assert 0 < len(kept) < 6 and torch.equal(kept, rows) and len(weights) == len(rows)
    logits = torch.randn(*labels[kept].shape, 4)
    each = F.cross_entropy(logits.flatten(0, -2), labels[kept].flatten(), reduction="none").view(len(kept), -1).sum(1)
    expected = (each / made.chance[rows]).sum() / (labels != -100).sum()
    torch.testing.assert_close(
        made.loss(torch.tensor(9.0), logits, labels[kept], rows, weights, batch["came"]).double(), expected
    )


def test_a_whole_batch_has_the_loss_of_the_model():
    made = Teaching([1] * 6, torch.ones_like, 0, None, silent)
    made.chance.fill_(1)
    batch = made.collate(lambda kept: {})([{"row": i, "labels": 1} for i in range(4)])
    loss = torch.tensor(9.0)
    given = batch["row"], batch["weight"], batch["came"]
    assert made.loss(loss, torch.randn(4, 2), torch.ones(4, dtype=torch.long), *given) is loss


def test_a_batch_that_is_made_and_not_read_has_not_come():
    """As the one after a run's last step, which is fetched beforehand."""
    made = Teaching([1] * 8, torch.ones_like, 0, None, silent)
    made.chance.fill_(1)
    collate = made.collate(lambda kept: {})
    read, _ = (collate([{"row": i, "labels": 1} for i in rows]) for rows in (range(4), range(4, 8)))
    made.loss(torch.tensor(9.0), torch.randn(4, 2), torch.ones(4, dtype=torch.long), read["row"], read["weight"], read["came"])
    state = SimpleNamespace(epoch=0.5, global_step=1, log_history=[])
    made.on_epoch_end(SimpleNamespace(device="cpu", num_train_epochs=0.5), state, None)
    assert made.came.tolist() == [1] * 4 + [0] * 4 and state.log_history[0]["examples"] == {
        "epoch": 0.5,
        "examples": 1,
        "tokens": 1,
    }


# Runs


@pytest.fixture(scope="module")
def skipping(base, tmp_path_factory):  # noqa: F811
    """A run that skips examples: its config, report, and what it said."""
    said = []
    config = replace(base, skip=0.2, epochs=4, keep_checkpoints=True, output=str(tmp_path_factory.mktemp("run") / "out"))
    return config, train(config, said.append), said


def test_the_first_epoch_is_that_of_a_run_that_skips_nothing(skipping, tmp_path):
    config, report, _ = skipping
    whole = train(config.replace(skip=0.0, output=str(tmp_path / "whole")), silent)
    first, other = report.history[0], whole.history[0]
    assert first == other and report.history[1] != whole.history[1] and not whole.examples


def test_later_epochs_say_what_they_read(skipping):
    _, report, said = skipping
    assert [line["epoch"] for line in report.examples] == [1, 2, 3, 4]
    assert report.examples[0] | {"epoch": 0} == {"epoch": 0, "examples": 1, "tokens": 1}
    for line in report.examples[1:]:
        assert 0.1 < line["examples"] < 0.9 and 0 < line["tokens"] < 1
        assert f"epoch {line['epoch']:g} of 4: {line['examples']:.0%} of the examples read, the others skipped" in said


def test_each_epoch_costs_what_it_read(skipping):
    _, report, _ = skipping
    cost = report.cost
    step = (cost["forward"] + cost["input_gradients"] + cost["weight_gradients"]) / (cost["forward"] + cost["full"])
    assert report.spent == pytest.approx([line["tokens"] * step for line in report.examples])


def test_as_many_steps(skipping):
    _, report, _ = skipping
    assert [line["step"] for line in report.history] == [6, 12, 18, 24]


@pytest.mark.parametrize("step", [8, 12, 15])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_runs_leave_the_same_weights(skipping, tmp_path, monkeypatch, step, accumulation):
    config = skipping[0].replace(gradient_accumulation=accumulation, epochs=4 * accumulation, keep_checkpoints=False)
    whole = train(config.replace(output=str(tmp_path / "a")), silent)
    with monkeypatch.context() as context:
        press_ctrl_c(context, step)
        with pytest.raises(KeyboardInterrupt):
            train(config.replace(output=str(tmp_path / "b")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert resumed.examples == whole.examples and whole.examples[-1]["examples"] < 1
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


def test_resumed_from_a_checkpoint_at_the_very_end_of_an_epoch(skipping, tmp_path, monkeypatch):
    config = skipping[0].replace(eval_steps=6, output=str(tmp_path / "a"))
    whole = train(config, silent)
    with monkeypatch.context() as context:
        press_ctrl_c(context, 12)
        with pytest.raises(KeyboardInterrupt):
            train(config.replace(output=str(tmp_path / "b")), silent)
    resumed = train(TrainConfig(output=str(tmp_path / "b"), resume=True), silent)
    assert resumed.examples == whole.examples and len(whole.examples) == 4
    assert_same(trained_tensors(tmp_path / "a"), trained_tensors(tmp_path / "b"))


def test_a_checkpoint_without_its_table_is_refused(skipping, tmp_path, monkeypatch):
    config = skipping[0].replace(output=str(tmp_path / "a"))
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    monkeypatch.setattr("clm_kernels.finetune.checkpoints._damage", lambda checkpoint, beside: "")  # which would pass it over
    path = tmp_path / "a" / "checkpoints" / "checkpoint-8" / STATE
    table = np.load(path)
    for spoilt in (None, table[:, 1:], table * 0, table * np.nan):
        path.write_bytes(b"spoilt") if spoilt is None else np.save(path, spoilt)
        with pytest.raises(ValueError, match=f"{STATE} must be what each example last taught"):
            train(TrainConfig(output=str(tmp_path / "a"), resume=True), silent)


def test_with_active_tokens_both_are_saved(skipping, tmp_path):
    report = train(skipping[0].replace(energy="0.9", output=str(tmp_path / "o")), silent)
    whole = report.cost["forward"] + report.cost["full"]
    for spent, active, read in zip(report.spent, report.active, report.examples, strict=True):
        assert active["flops"] < report.cost["share"]
        assert spent == pytest.approx(read["tokens"] * (report.cost["forward"] + active["flops"] * report.cost["full"]) / whole)
    assert 0 < report.spent[-1] < report.spent[0]


@pytest.mark.parametrize("method", ["full", "head", "lora"])
def test_every_method_can_skip(skipping, tmp_path, method):
    report = train(skipping[0].replace(method=method, select="auto", learning_rate=1e-2, output=str(tmp_path / "o")), silent)
    assert report.examples[-1]["examples"] < 1


@pytest.mark.parametrize(("options", "message"), [
    ({"skip": 1.0}, r"skip must be in \[0, 1\), got 1.0"),
    ({"skip": -0.1}, r"skip must be in \[0, 1\), got -0.1"),
    ({"skip": 0.1, "epochs": 1}, "epochs must be above 1 with skip, as the first epoch leaves nothing out, got 1"),
])  # fmt: skip
def test_refusals(base, tmp_path, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        train(base.replace(output=str(tmp_path / "o"), **options), silent)
