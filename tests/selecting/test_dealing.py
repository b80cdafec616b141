"""Selections of dealt groups: what they hold, and the ways to ask for them."""

import re
from dataclasses import replace

import needs_datasets  # noqa: F401
import pytest
import torch
from dealt_groups import GROUPS, SHAPES, deal_out, grid_of
from models import build

import clm_kernels as clm
from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.beginning import choose_selection
from clm_kernels.finetune.methods import METHODS
from clm_kernels.finetune.recipe import train
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.measure.subject import build as build_subject
from clm_kernels.measure.subject import resolved
from clm_kernels.selecting.pipeline import best_units, check_units
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selecting.units.dealing import deal, dealt_groups, strip
from clm_kernels.selection import Selection


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_and_column_gives_as_much_as_any_other(shape, groups):
    grid = grid_of(deal_out(shape, groups))
    groups = min(groups, *shape)
    for strips, across in ((grid, 1), (grid.T, 0)):
        counts = strips.sum(1)
        assert counts.max() - counts.min() <= 1 and counts.min() >= grid.shape[across] // groups >= 1


def test_the_density_is_one_in_so_many():
    entries = deal_out((384, 1536), 8)
    assert entries.block == (16, 16) and entries.density == 1 / 8
    mean = sum(deal_out((384, 384), 10, seed).density for seed in range(200)) / 200
    assert abs(mean - 0.1) < 0.002  # where 10 does not divide the strips, by chance a little more or less


def test_the_seed_deals():
    assert deal_out((64, 96), 4) == deal_out((64, 96), 4) != deal_out((64, 96), 4, seed=1)


@pytest.mark.parametrize(
    ("side", "groups", "width"), [(384, 8, 16), (384, 24, 16), (384, 25, 8), (24, 2, 8), (7, 2, 1), (30, 3, 2), (16, 100, 1)]
)
def test_strips_are_as_wide_as_the_side_and_the_groups_allow(side, groups, width):
    assert strip(side, groups) == width


def test_nobody_gets_two_more_than_another():
    counts = torch.bincount(deal(23, 5, torch.Generator().manual_seed(0)))
    assert counts.tolist().count(5) == 3 and counts.tolist().count(4) == 2


def test_the_ways_to_ask_for_them():
    """No example is read and no tokenizer is needed: chance alone chooses."""
    model = build()
    selection = dealt_groups(model, seed=3)
    assert list(selection) == list(eligible_weights(model)) and {entries.kind for entries in selection.values()} == {"blocks"}
    assert selection == clm.choose(model, None, [], kind="groups", seed=3)
    assert selection == random_selection(model, kind="groups", density=1 / 8, seed=3)
    assert selection == best_units(model, [], kind="groups", density=1 / 8, seed=3).selection
    assert selection != clm.choose(model, None, [], kind="groups") and selection != dealt_groups(model, density=0.25, seed=3)
    upper = dealt_groups(model, layers="upper half")
    assert upper and set(upper) < set(selection)


def test_they_are_saved_and_trained_as_blocks(tmp_path):
    model = build()
    selection = dealt_groups(model, density=0.5)
    selection.save(tmp_path / "s.safetensors")
    assert Selection.load(tmp_path / "s.safetensors") == selection
    name, entries = next(iter(selection.items()))
    before, grid = model.get_parameter(name).clone(), grid_of(entries)
    handle = clm.patch(model, selection)
    optimizer = clm.SparseAdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=torch.arange(8).view(2, 4), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    handle.restore()
    bm, bn = entries.block
    moved = model.get_parameter(name) != before
    selected = grid.repeat_interleave(bm, 0).repeat_interleave(bn, 1)
    assert moved.any() and not (moved & ~selected).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "fisher"}, "choose: rule must be random for groups, got 'fisher'"),
        ({"per": "weight"}, "choose: per must be model for groups, got 'weight'"),
        ({"backward": 0.5}, "choose: backward must be None for groups, got 0.5"),
        ({"tokens": True}, "choose: tokens must be False for groups, which are dealt by chance"),
        ({"density": 2}, "budget: density must lie in (0, 1], got 2"),
        ({"layers": "lower"}, "choose: layers must be one of 'all', 'upper half', 'upper third', got 'lower'"),
    ],
    ids=str,
)
def test_what_says_nothing_about_chance_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clm.choose(build(), None, [], kind="groups", **changes)


def test_other_kinds_are_scored_by_fisher_unless_told():
    for kind in ("rows", "elements"):
        options = {"density": 0.1, "backward": None, "per": "auto", "layers": "all", "block": (8, 8)}
        check_units(build(), kind, rule="auto", **options)
    with pytest.raises(ValueError, match="density must lie in"):
        dealt_groups(build(), density=0)


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_train_takes_an_eighth_by_chance(task):
    method, task = METHODS["sparse"], TASKS[task]
    dealt = method.resolved(TrainConfig(kind="groups"), task)
    assert (dealt.selecting.kind, dealt.selecting.density, dealt.selecting.select) == ("groups", 1 / 8, "random")
    assert dealt.training.learning_rate == method.resolved(TrainConfig(), task).training.learning_rate
    assert method.resolved(TrainConfig(kind="groups", density=0.25), task).selecting.density == 0.25
    with pytest.raises(ValueError, match=r"^train: select must be auto or random for groups, .*, got 'tokens'$"):
        TrainConfig(kind="groups", select="tokens").check(())


def test_train_and_select(base, tmp_path):
    config = replace(base, output=str(tmp_path / "o"), kind="groups", select="auto", per="auto", density=None, epochs=1)
    report = train(config, lambda line: None)
    selection = Selection.load(tmp_path / "o" / "selection.safetensors")
    assert {line["kind"] for line in report.selection} == {"blocks"} and report.config["density"] == 1 / 8
    assert choose_selection(replace(config, seed=config.run.seed + 1))[0] != selection == choose_selection(config)[0]


def test_estimate_deals_as_train_does():
    import transformers as tf

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 50}
    model = tf.BertConfig(**sizes)
    config = resolved(TrainConfig(density=0.25), model, 16, "estimate")
    selection = METHODS["sparse"].draw(build_subject(model, config, "meta"), config)
    assert {entries.density for entries in selection.values()} == {0.25}
