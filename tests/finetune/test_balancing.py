"""`--balance`: the weights and chances by their definitions, runs that are resumed to the same bits, and what is refused."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from interruption import press_ctrl_c
from tiny_runs import assert_same, base, silent, trained_tensors  # noqa: F401
from tiny_task import sentences, several, texts, write_data, write_jsonl

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.balancing import drawing_chances, label_weights
from clm_kernels.finetune.beginning import begin
from clm_kernels.finetune.losses import gradient_norms, label_losses, mean_loss
from clm_kernels.finetune.trainer import BalancedSampler


def uneven(count, seed):
    """Of three texts that are not about billing, one is left."""
    return [row for i, row in enumerate(texts(3 * count, seed)) if row["label"] == "billing" or i % 9 < 3][:count]


@pytest.fixture(scope="module")
def skewed(base, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("skewed")
    return replace(base, **write_data(folder, uneven), epochs=2)


@pytest.fixture(scope="module")
def runs(skewed, tmp_path_factory):
    """A finished run for each way to balance."""
    folder = tmp_path_factory.mktemp("balanced")
    configs = {how: replace(skewed, balance=how, output=str(folder / how)) for how in ("none", "weights", "sample")}
    return {how: (config, train(config, silent)) for how, config in configs.items()}


@pytest.mark.parametrize("make", [uneven, sentences])
def test_labels_weigh_the_same_together_and_one_on_the_mean(base, tmp_path, make):  # noqa: F811
    config = replace(base, **write_data(tmp_path, make), balance="weights", output=str(tmp_path / "o"))
    run = begin(config, silent)
    labels = [label for row in run.splits["train"].split.labels for label in (row if isinstance(row, list) else [row])]
    count, weights = Counter(labels), label_weights(run.config.training, run.splits["train"], len(run.corpus.label_names))
    of_label = dict(zip(run.corpus.label_names, weights.tolist(), strict=True))
    assert sum(of_label[label] for label in labels) / len(labels) == pytest.approx(1)
    assert {name: count[name] * of_label[name] for name in count} == pytest.approx(
        {name: len(labels) / len(count) for name in count}
    )
    assert drawing_chances(run.config.training, run.splits["train"], 3) is None


def test_the_weighted_loss_and_its_norms():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(4, 5, 3).requires_grad_(), torch.randint(3, (4, 5)), torch.tensor([0.5, 2.0, 1.0])
    labels[:, 3:] = -100
    log = logits.log_softmax(-1)
    each = torch.stack([-weights[labels[i, j]] * log[i, j, labels[i, j]] for i in range(4) for j in range(3)])
    torch.testing.assert_close(mean_loss(logits, labels, weights), each.mean())
    label_losses(logits, labels, weights).sum().backward()
    torch.testing.assert_close(gradient_norms(logits.detach(), labels, weights), logits.grad.flatten(1).norm(dim=1))


def test_every_label_is_drawn_as_often_and_anew_in_each_epoch():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    chances = (1 / torch.bincount(labels))[labels].double()
    sampler = BalancedSampler(8, [5] * 100, 7, chances)
    epochs = []
    for epoch in range(60):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    counts = Counter(int(labels[i]) for drawn in epochs for i in drawn)
    assert all(abs(count / 6000 - 1 / 3) < 0.02 for count in counts.values()) and len(epochs[0]) == 100
    assert epochs[0] != epochs[1]
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1]


def test_each_way_learns_something_else(runs):
    losses = {how: report.history[-1]["train_loss"] for how, (_, report) in runs.items()}
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("how", ["weights", "sample"])
def test_a_resumed_run_ends_at_the_same_bits(runs, tmp_path, monkeypatch, how):
    config = replace(runs[how][0], output=str(tmp_path / "o"))
    with monkeypatch.context() as context:
        press_ctrl_c(context, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, silent)
    train(TrainConfig(output=config.run.output, resume=True), silent)
    assert_same(trained_tensors(config.run.output), trained_tensors(runs[how][0].run.output))


def test_weights_go_together_with_skip(skewed, tmp_path):
    report = train(replace(skewed, balance="weights", skip=0.3, epochs=3, output=str(tmp_path / "o")), silent)
    assert report.examples[-1]["examples"] < 1


@pytest.mark.parametrize(
    "make, options, said",
    [
        (several, {"balance": "weights"}, "balance must be none where a text may have several labels"),
        (sentences, {"balance": "sample"}, "balance must be weights or none for tags"),
        (texts, {"balance": "sample", "skip": 0.1}, "balance must be none or weights with skip"),
        (texts, {"balance": "other"}, "balance must be 'none', 'weights' or 'sample'"),
    ],
)
def test_what_cannot_be_balanced_is_refused(base, tmp_path, make, options, said):  # noqa: F811
    path = write_jsonl(tmp_path / "t.jsonl", make(24, 0))
    config = replace(base, train=path, validation=path, test="", **options, output=str(tmp_path / "o"))
    with pytest.raises(ValueError, match=said):
        train(config, silent)
    assert not (tmp_path / "o").exists()
