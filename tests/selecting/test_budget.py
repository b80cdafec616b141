"""Budgets of entries, by layer, of coupled units, and by cost: against brute force over all subsets."""

import functools
import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import build

import clm_kernels as clm
from clm_kernels.models.structure import depths
from clm_kernels.selecting.budget.cost import CostModel
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.finding import find_units, single
from clm_kernels.selection import Selection

BATCH = {"batch": 2, "length": 8}
MINUTE = {"hidden_size": 2, "num_attention_heads": 1, "num_hidden_layers": 3, "vocab_size": 16}


def whole_numbers(n):
    return st.lists(st.integers(0, 9).map(float), min_size=n, max_size=n).map(torch.tensor)


class Problem:
    """A model of a few units: what each subset of them costs and how many entries it has."""

    def __init__(self, units, model):
        self.units, self.model = units, model
        self.subsets = torch.tensor(list(itertools.product([False, True], repeat=units.count)))
        cost = CostModel(model, **BATCH)
        selections = [units.select(subset) for subset in self.subsets]
        self.shares = torch.tensor([cost.of(selection).share for selection in selections], dtype=torch.float64)
        self.entries = torch.tensor([selection.count for selection in selections])
        self.nothing = self.entries == 0

    def best(self, score, share, most=math.inf):
        """The greatest score of a subset of at least one unit within both bounds, or None."""
        able = (self.shares <= share + 1e-12) & (self.entries <= most) & ~self.nothing
        return (self.subsets.double() @ score)[able].max().item() if able.any() else None

    def scores(self, values):
        """Scores of rows and columns, `values` one after the other."""
        counts = [part.layout.units for part in self.units.values()]
        return dict(zip(self.units, values.split(counts), strict=True))

    def number_of_scores(self):
        return sum(part.layout.units for part in self.units.values())


@functools.cache
def problem(which):
    """Rows of two weights in each of three layers, all of one size; of several sizes; heads and neurons."""
    if which == "coupled":
        model = build(**MINUTE | {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 3})
        return Problem(find_units(model, "heads+neurons"), model)
    model = build(**MINUTE, intermediate_size=2 if which == "one size" else 5)
    parts = ("attention.self.value", "output.dense") if which == "one size" else ("query", "layer.0.output", "layer.2.output")
    names = [name for name in eligible_weights(model) if any(part in name for part in parts) and "attention.output" not in name]
    names = names if which == "one size" else names[:5]
    return Problem(single({name: tuple(model.get_parameter(name).shape) for name in names}, "rows"), model)


def spend(task, scores, share, **more):
    selection = clm.budget(scores, task.model, backward=share, units=task.units, **BATCH, **more)
    found = sum(scores[name][entries.index.long()].sum().item() for name, entries in selection.items())
    assert CostModel(task.model, **BATCH).of(selection).share <= share + 1e-12
    return selection, found


@given(data=st.data())
def test_units_of_one_size_are_spent_on_as_well_as_can_be(data):
    task = problem("one size")
    assert task.units.count == 12 and set(task.units.entries.tolist()) == {2.0}
    scores = task.scores(data.draw(whole_numbers(12)))
    share, most = data.draw(st.floats(0.01, 1.0)), data.draw(st.sampled_from([None, 2, 4, 10]))
    best = task.best(task.units.scores(scores), share, most or math.inf)
    if best is None:
        with pytest.raises(ValueError, match=r"^budget: backward must be at least 0\.\d{4} to admit one unit, got"):
            spend(task, scores, share, entries=most)
    else:
        selection, found = spend(task, scores, share, entries=most)
        assert found == best
        assert selection.count <= (most or math.inf)


@pytest.mark.parametrize("which", ["several sizes", "coupled"])
@given(data=st.data())
def test_units_of_several_sizes_miss_less_than_one_unit(which, data):
    task = problem(which)
    assert len(set(task.units.entries.tolist())) > 1
    scores = task.scores(data.draw(whole_numbers(task.number_of_scores())))
    share, score = data.draw(st.floats(0.01, 1.0)), task.units.scores(scores)
    best = task.best(score, share)
    if best is None:
        with pytest.raises(ValueError, match=r"^budget: backward must be at least"):
            spend(task, scores, share)
    else:
        assert best - score.max().item() <= spend(task, scores, share)[1] <= best


@pytest.mark.parametrize("which", ["one size", "several sizes", "coupled"])
def test_the_error_says_the_smallest_that_would(which):
    task = problem(which)
    scores = task.scores(torch.ones(task.number_of_scores()))
    with pytest.raises(ValueError, match=r"^budget: backward must be at least .* to admit one unit, got 1e-06$") as caught:
        spend(task, scores, 1e-6)
    smallest = float(re.search(r"at least (\S+)", str(caught.value))[1])
    assert spend(task, scores, smallest)[0].count
    assert task.best(task.units.scores(scores), smallest - 1e-4) is None


def test_depth_is_traded_for_width():
    """One good row at the bottom is worth its depth only while what lies above is worth less."""
    task = problem("one size")
    low, *_, high = task.units
    share = CostModel(task.model, **BATCH).of(task.units.select(torch.arange(12) == 0)).share  # enough for that one alone
    for at_bottom, chosen_low in ((1.0, False), (50.0, True)):
        scores = {name: torch.full((2,), 5.0 if name == high else 0.1) for name in task.units}
        scores[low] = torch.tensor([at_bottom, 0.0])
        selection, _ = spend(task, scores, share)
        assert (low in selection) == chosen_low and (high in selection) != chosen_low


def test_units_compete_by_score_per_flop():
    """The upper weight's row scores more than either of the lower one's, and costs more than both."""
    task = problem("several sizes")
    *_, low, high = task.units
    cost = CostModel(task.model, **BATCH)
    share = (
        cost.of(task.units.select(torch.tensor([False] * 6 + [True] * 2 + [False] * 2))).share
        + cost.per_entry(low) / cost.full.full
    )
    scores = {name: torch.zeros(2) for name in task.units} | {low: torch.tensor([5.0, 5.0]), high: torch.tensor([6.0, 0.0])}
    assert (task.units.entries[6], task.units.entries[8]) == (2, 5)
    assert spend(task, scores, share)[1] == 10


def test_biases_and_norms_are_reckoned_with():
    model = build(num_hidden_layers=4)
    scores = {name: torch.rand(module.weight.shape[0]) for name, module in eligible_weights(model).items()}
    cost = CostModel(model, **BATCH)
    whole = {"biases": True, "norms": True}
    selection = clm.budget(scores, model, backward=0.3, kind="rows", **BATCH, **whole)
    assert cost.of(selection, **whole).share <= 0.3
    plain = clm.budget(scores, model, backward=0.3, kind="rows", **BATCH)
    assert cost.of(plain).share <= 0.3 < cost.of(plain, **whole).share


def test_embedding_rows_cost_depth_alone():
    model = build()
    units = find_units(model, "embeddings")
    score = torch.arange(64.0)
    name = "bert.embeddings.word_embeddings.weight"
    selection = clm.budget({name: score}, model, backward=0.9, density=0.25, units=units, **BATCH)
    assert selection[name].index.tolist() == list(range(48, 64))
    assert clm.budget({name: score}, model, backward=0.9, units=units, **BATCH)[name].density == 1


@given(data=st.data())
def test_a_number_of_entries(data):
    task = problem("one size")
    scores = task.scores(data.draw(whole_numbers(12)))
    entries = data.draw(st.integers(2, 30))
    selection = clm.budget(scores, task.model, entries=entries, kind="rows")
    found = sum(scores[name][e.index.long()].sum().item() for name, e in selection.items())
    assert found == task.best(task.units.scores(scores), 1.0, entries) and selection.count == min(24, entries // 2 * 2)


def test_entries_equal_their_density():
    model = build()
    scores = {name: torch.rand(module.weight.shape[1]) for name, module in eligible_weights(model).items()}
    total = sum(module.weight.numel() for module in eligible_weights(model).values())
    for per in ("model", "layer", "weight"):
        assert clm.budget(scores, model, entries=total // 4, per=per) == clm.budget(scores, model, density=0.25, per=per)


def test_per_layer_gives_each_the_same_share():
    """Within a layer units compete; between layers they do not."""
    model = build(num_hidden_layers=3)
    units, depth = find_units(model, "heads+neurons"), depths(model)
    generator = torch.Generator().manual_seed(0)
    scores = {}
    for name, part in units.items():
        scores[name] = torch.rand(part.layout.units, generator=generator) * 10 ** depth[name]
    selection = clm.budget(scores, model, density=0.3, per="layer", units=units)
    total = units.entries.sum().item() / 3
    worth = units.scores(scores) / units.entries
    chosen = torch.zeros(units.count, dtype=torch.bool)
    for layer in range(3):
        left = 0.3 * total
        inside = (units.least(depth) == layer).nonzero().flatten()
        for unit in inside[worth[inside].argsort(descending=True)].tolist():
            if units.entries[unit] <= left:
                left -= units.entries[unit].item()
                chosen[unit] = True
        assert left < 0.1 * total
    assert selection == units.select(chosen)
    fewest = clm.budget(scores, model, density=1e-9, per="layer", units=units)
    assert {depth[name] for name in fewest} == {0, 1, 2}


def test_whole_layers_compete():
    model = build(num_hidden_layers=3)
    units = find_units(model, "layers")
    scores = {name: torch.full((part.layout.units,), 2.0 if ".1." in name else 1.0) for name, part in units.items()}
    assert clm.budget(scores, model, density=0.34, units=units) == units.select(torch.tensor([False, True, False]))


def test_the_same_choice_every_time():
    task = problem("coupled")
    scores = task.scores(torch.ones(task.number_of_scores()))
    first, second = (spend(task, scores, 0.5)[0] for _ in range(2))
    assert first == second and list(first) == list(second)


NAME = "bert.encoder.layer.0.attention.self.query.weight"
WRONG = [
    ({}, "budget: one of density, entries and backward must be given, got none"),
    ({"density": 0.1, "entries": 5}, "budget: density or entries must be given, got both 0.1 and 5"),
    ({"entries": 0}, "budget: entries must be at least 1, got 0"),
    ({"entries": 31}, "budget: entries must allow at least one unit of 32 entries, got 31"),
    ({"backward": 0.0}, "budget: backward must lie in (0, 1], got 0.0"),
    ({"backward": 1.5}, "budget: backward must lie in (0, 1], got 1.5"),
    ({"backward": 0.5, "per": "layer"}, "budget: per must be 'model' or 'weight' with backward, got 'layer'"),
    ({"backward": 0.9, "entries": 31, **BATCH}, "budget: entries must allow at least one unit of 32 entries, got 31"),
    ({"density": 0.1, "per": "weight", "units": "heads"}, "budget: per must be 'model' or 'layer' with units, got 'weight'"),
    ({"density": 0.1, "units": "heads"}, "budget: scores must hold those of every weight of the units, got none of "),
    ({"density": 0.1, "units": "other"}, f"budget: the units of '{NAME}' must be of its shape (32, 32), got (24, 24)"),
    ({"density": 0.1, "units": "gpt2"}, "budget: units must be named after the model's weights, got 'transformer.h.0"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_errors(changes, message):
    model = build()
    other = {"heads": model, "other": build("minilm"), "gpt2": build("gpt2")}
    changes = dict(changes)
    if "units" in changes:
        changes["units"] = find_units(other[changes["units"]], "heads")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        clm.budget({NAME: torch.ones(32)}, model, kind="rows", **changes)


@pytest.mark.parametrize("score", [torch.ones(31), torch.full((32,), math.nan)])
def test_scores_of_units_are_checked(score):
    model = build()
    units = find_units(model, "heads")
    scores = {name: torch.ones(part.layout.units) for name, part in units.items()} | {NAME: score}
    with pytest.raises(ValueError, match=f"^budget: the scores of '{NAME}' must be "):
        clm.budget(scores, model, density=0.5, units=units)


def test_an_empty_selection_is_never_given():
    model = build()
    units = find_units(model, "heads")
    scores = {name: torch.zeros(part.layout.units) for name, part in units.items()}
    assert clm.budget(scores, model, density=0.5, units=units) != Selection()


@pytest.mark.parametrize("kind", ["rows", "columns"])
@pytest.mark.parametrize("density", [None, 0.1])
def test_by_weight_the_cost_is_spent_evenly(kind, density):
    """Every weight that is trained gives the same share of its best units, as large as cost and density let it be."""
    model = build(num_hidden_layers=4, intermediate_size=64)
    cost = CostModel(model, **BATCH)
    scores = {name: torch.rand(module.weight.shape[kind == "columns"]) for name, module in eligible_weights(model).items()}
    selection = clm.budget(scores, model, backward=0.3, density=density, kind=kind, per="weight", **BATCH)
    shares = [entries.density for entries in selection.values()]
    assert max(shares) - min(shares) <= 1 / 32 and len(selection) > 6
    assert cost.of(selection).share <= 0.3
    total = sum(module.weight.numel() for module in eligible_weights(model).values())
    one = sum(entries.count / entries.index.numel() for entries in selection.values())  # a unit more of each weight
    assert selection.count <= (density or 1) * total
    if density:
        assert selection.count + one > density * total
    for name, entries in selection.items():
        best = scores[name].topk(entries.index.numel()).indices.sort().values
        assert torch.equal(entries.index.long().sort().values, best)
    lowest = min(cost.place(name) for name in selection)
    assert {name for name in scores if cost.place(name) >= lowest} == set(selection)
