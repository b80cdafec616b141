"""Choosing a Selection: budgets against brute force, a warmed-up head, and a model left as it was."""

import copy
import gc
import math
import re
import weakref

import models
import pytest
import tiny_task
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import build
from oracles import assert_as_before, batches, everything_about, lived_in
from tolerances import assert_close
from torch import nn

import clm_kernels as clm
from clm_kernels.defaults import SEED
from clm_kernels.models.compat import is_cache
from clm_kernels.models.pooling import set_pooling
from clm_kernels.models.structure import base_model, head_names
from clm_kernels.selecting.batches import batches_of
from clm_kernels.selecting.scores.rules import RULES
from clm_kernels.selecting.scores.sensitivity import LAYERS, eligible_weights
from clm_kernels.selecting.scores.warm_up import warm_up_head
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selecting.units.dealing import dealt_groups
from clm_kernels.selecting.units.elements import top_entries

KINDS = ("columns", "rows")
on_kinds = pytest.mark.parametrize("kind", KINDS)


def plain(**shapes):
    """A model that is nothing but weights."""
    return nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})


def chosen(selection):
    return {name: entries.index.tolist() for name, entries in selection.items()}


def choose(*args, kind="columns", **options):
    """A kind that looks at the data, unless another one is given."""
    return clm.choose(*args, kind=kind, **options)


class TestBudget:
    def test_units_compete_by_score_per_entry(self):
        """b's rows score more than a's, but hold four times as much."""
        model = plain(a=(3, 2), b=(2, 8))
        scores = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([6.0, 4.0])}
        for entries, expected in (
            (2, {"a": [0]}),
            (4, {"a": [0, 2]}),
            (8, {"a": [0, 1, 2]}),
            (12, {"a": [0, 2], "b": [0]}),
            (14, {"a": [0, 1, 2], "b": [0]}),
        ):
            assert chosen(clm.budget(scores, model, density=entries / 22, kind="rows")) == expected
        assert chosen(clm.budget(scores, model, density=1.0, kind="rows")) == {"a": [0, 1, 2], "b": [0, 1]}

    def test_a_unit_too_large_makes_room_for_the_next(self):
        scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([90.0])}
        assert chosen(clm.budget(scores, plain(a=(2, 2), b=(1, 8)), density=5 / 12, kind="rows")) == {"a": [0, 1]}

    @given(data=st.data())
    def test_spends_what_it_may_on_the_best(self, data):
        shapes = data.draw(st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1))
        kind, density = data.draw(st.sampled_from(KINDS)), data.draw(st.floats(0.01, 1.0))
        count = {name: shape[0] if kind == "rows" else shape[1] for name, shape in shapes.items()}
        scores = {
            name: torch.tensor(data.draw(st.lists(st.integers(0, 3).map(float), min_size=n, max_size=n)))
            for name, n in count.items()
        }
        size = {name: math.prod(shapes[name]) // n for name, n in count.items()}
        units = sorted(
            ((-float(scores[name][i]) / size[name], j, i, name) for j, name in enumerate(shapes) for i in range(count[name]))
        )
        left, expected = density * sum(map(math.prod, shapes.values())) + 1e-6, set()
        for *_, i, name in units:  # the oracle: best first, equals in order, whatever still fits
            if size[name] <= left:
                expected.add((name, i))
                left -= size[name]
        if not expected:
            with pytest.raises(
                ValueError, match=rf"^budget: density must allow at least one unit of {min(size.values())} entries, got "
            ):
                clm.budget(scores, plain(**shapes), density=density, kind=kind)
        else:
            selection = clm.budget(scores, plain(**shapes), density=density, kind=kind)
            assert {(name, i) for name, index in chosen(selection).items() for i in index} == expected
            assert all(entries.kind == kind and entries.shape == shapes[name] for name, entries in selection.items())

    def test_every_count_of_entries_can_be_asked_for(self):
        """0.29 * 100 is 28.999999999999996."""
        model, scores = plain(a=(100, 1)), {"a": torch.arange(100.0)}
        for entries in range(1, 101):
            assert clm.budget(scores, model, density=entries / 100, kind="rows").count == entries

    @on_kinds
    @pytest.mark.parametrize(("density", "taken"), [(1e-6, {"a": 1, "b": 1}), (0.25, {"a": 2, "b": 1}), (1.0, {"a": 8, "b": 4})])
    def test_per_weight_gives_each_the_same_share(self, kind, density, taken):
        model = plain(a=(8, 8), b=(4, 4))
        scores = {"a": torch.arange(8.0), "b": 100 + torch.arange(4.0)}
        selection = clm.budget(scores, model, density=density, kind=kind, per="weight")
        assert chosen(selection) == {name: list(range(len(scores[name]) - n, len(scores[name]))) for name, n in taken.items()}

    @pytest.mark.parametrize("per", ["model", "weight"])
    def test_among_equals_the_first_ones(self, per):
        scores = {"a": torch.zeros(1000)}
        assert chosen(clm.budget(scores, plain(a=(1000, 2)), density=0.3, kind="rows", per=per)) == {"a": list(range(300))}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"density": 0.0}, "budget: density must lie in (0, 1], got 0.0"),
            ({"density": 1.5}, "budget: density must lie in (0, 1], got 1.5"),
            ({"density": math.nan}, "budget: density must lie in (0, 1], got nan"),
            ({"per": "head"}, "budget: per must be 'model', 'layer' or 'weight', got 'head'"),
            ({"kind": "blocks"}, "budget: kind must be 'rows' or 'columns', got 'blocks'"),
            ({"scores": {}}, "budget: scores must hold at least one weight's, got none"),
            ({"scores": {"z": torch.zeros(4)}}, "budget: scores must be named after the model's weights, got 'z'"),
            ({"scores": {"a": torch.zeros(3)}}, "budget: the scores of 'a' must be of shape (4,) for rows, got (3,)"),
            (
                {"scores": {"a": torch.tensor([1, math.nan, math.inf, 0])}},
                "budget: the scores of 'a' must be finite, got 2 that are inf or NaN",
            ),
            ({"density": 0.2}, "budget: density must allow at least one unit of 6 entries, got 0.2"),
        ],
        ids=str,
    )
    def test_errors(self, changes, message):
        given = {"scores": {"a": torch.zeros(4)}, "density": 0.5, "kind": "rows"} | changes
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            clm.budget(given.pop("scores"), plain(a=(4, 6)), **given)


def losses(model, given):
    with torch.no_grad():
        return sum(model.eval()(**batch).loss.item() for batch in given)


class TestWarmUpHead:
    @pytest.mark.parametrize(("family", "task"), [("bert", "sequence"), ("bert", "token"), ("distilbert", "sequence"), ("gpt2", "sequence"),
                                                  ("llama", "sequence"), ("modernbert", "sequence")])  # fmt: skip
    def test_lowers_the_loss_and_touches_the_head_alone(self, family, task):
        model = build(family, task)
        given, before = batches(model, task), models.bits(model)
        loss = losses(model, given)
        clm.warm_up_head(model, given)
        assert losses(model, given) < loss
        changed = {name for name, tensor in models.bits(model).items() if not torch.equal(tensor, before[name])}
        assert changed == set(head_names(model))

    @pytest.mark.parametrize("pooling", ["native", "mean"])
    def test_equals_training_the_head_on_the_whole_model(self, pooling):
        """Replaying the base model's outputs is no approximation, hooks on it included."""
        model = set_pooling(build(dropout=0.3), pooling).model
        whole, given = copy.deepcopy(model).eval().requires_grad_(False), batches(model)
        head = [whole.get_parameter(name).requires_grad_() for name in head_names(whole)]
        optimizer = torch.optim.AdamW(head, lr=1e-2, weight_decay=0.0)
        for batch in given * 3:
            whole(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        clm.warm_up_head(model, given, epochs=3, lr=1e-2)
        for name in head_names(model):
            assert_close(model.get_parameter(name), whole.get_parameter(name))

    @pytest.mark.parametrize("fails", [False, True])
    def test_leaves_all_else_as_it_was(self, fails):
        model = lived_in(build(dropout=0.3))
        base = base_model(model)
        original = base.forward
        base.forward = lambda *args, **kwargs: original(*args, **kwargs)  # as accelerate's hooks do
        before, given = everything_about(model), batches(model)
        if fails:
            given[1]["labels"] = given[1]["labels"] + 10
            with pytest.raises(IndexError):
                clm.warm_up_head(model, given)
        else:
            clm.warm_up_head(model, given)
        for name in head_names(model):
            before["weights"][name] = model.get_parameter(name).detach().clone()
        assert_as_before(model, before)

    def test_runs_the_base_model_once_a_batch(self):
        model, calls = build(), []
        model.bert.encoder.register_forward_hook(lambda *args: calls.append(1))
        clm.warm_up_head(model, batches(model), epochs=5)
        assert len(calls) == 2

    def test_no_text_s_keys_and_values_are_kept(self, monkeypatch):
        model, caches, alive = build("llama"), [], []
        model.config.use_cache = True
        step = torch.optim.AdamW.step

        def counting(optimizer):
            gc.collect()
            alive.append(sum(cache() is not None for cache in caches))
            return step(optimizer)

        def watch(module, args, output):
            caches.extend(weakref.ref(value) for value in output.values() if is_cache(value))

        base_model(model).register_forward_hook(watch)
        monkeypatch.setattr(torch.optim.AdamW, "step", counting)
        clm.warm_up_head(model, batches(model), epochs=1)
        assert len(caches) == 2 and alive == [0, 0]

    def test_a_model_without_a_head_is_left_alone(self):
        model = base_model(build())
        before = everything_about(model)
        clm.warm_up_head(model, [])
        assert_as_before(model, before)


class TestChoose:
    @pytest.fixture
    def tokenizer(self):
        return tiny_task.tokenizer()

    @pytest.fixture
    def rows(self):
        return tiny_task.texts(20, seed=0)

    @staticmethod
    def model(**changes):
        labels = sorted(tiny_task.TOPICS)
        return build(
            dropout=0.3, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)}, **changes
        )

    @on_kinds
    @pytest.mark.parametrize("layers", LAYERS)
    @pytest.mark.parametrize("per", ["model", "weight"])
    def test_gives_a_selection_within_its_bounds(self, tokenizer, rows, kind, layers, per):
        model = self.model(num_hidden_layers=3)
        selection = choose(model, tokenizer, rows, density=0.1, kind=kind, layers=layers, per=per, batch_size=8)
        selection.check(dict(model.named_parameters()))
        eligible = {name: module.weight for name, module in eligible_weights(model, layers).items()}
        assert selection and set(selection) <= set(eligible) and {entries.kind for entries in selection.values()} == {kind}
        total = sum(weight.numel() for weight in eligible.values())
        assert 0.05 * total < selection.count <= 0.1 * total + (48 * len(eligible) if per == "weight" else 0)

    def test_single_elements_are_those_that_top_entries_finds(self, tokenizer, rows):
        model = self.model()
        found = choose(model, tokenizer, rows, density=0.05, kind="elements", batch_size=8, layers="upper half")
        batches = batches_of(model, tokenizer, rows, 512, 8, 256, 42)
        warm_up_head(model, batches)
        assert found == top_entries(model, batches, density=0.05, layers="upper half")
        assert {entries.kind for entries in found.values()} == {"elements"}

    def test_single_elements_drawn_by_chance_are_of_each_weight_the_same_share(self, tokenizer, rows):
        model = self.model()
        found = choose(model, tokenizer, rows, density=0.05, kind="elements", rule="random", batch_size=8, seed=3)
        assert found == random_selection(model, density=0.05, kind="elements", seed=3)
        assert all(entries.density == pytest.approx(0.05, abs=1e-3) for entries in found.values())

    def test_what_is_not_said_is_what_train_takes(self, tokenizer, rows):
        model = self.model()
        assert clm.choose(model, tokenizer, rows) == dealt_groups(model, seed=SEED)
        assert clm.choose(model, tokenizer, rows, density=0.25) == dealt_groups(model, density=0.25, seed=SEED)
        assert {entries.block for entries in clm.choose(model, tokenizer, rows, block=(4, 4)).values()} == {(4, 4)}
        for asked in ({"rule": "fisher"}, {"tokens": True}, {"per": "model"}, {"backward": 0.9}):
            found = clm.choose(model, tokenizer, rows, density=0.1, batch_size=8, **asked)
            assert {entries.kind for entries in found.values()} == {"columns"}

    def test_leaves_the_model_bitwise_as_it_was(self, tokenizer, rows):
        model = lived_in(self.model())
        before, random = everything_about(model), torch.random.get_rng_state()
        choose(model, tokenizer, rows, density=0.1, batch_size=8)
        assert_as_before(model, before)
        assert torch.equal(torch.random.get_rng_state(), random)

    def test_the_head_is_restored_when_something_fails(self, tokenizer, rows, monkeypatch):
        model = self.model()
        before = everything_about(model)
        monkeypatch.setitem(RULES, "fisher", None)
        with pytest.raises(TypeError, match="not callable"):
            choose(model, tokenizer, rows, batch_size=8)
        assert_as_before(model, before)

    def test_the_same_seed_gives_the_same_selection(self, tokenizer, rows):
        first, again, other = (
            choose(self.model(), tokenizer, rows, density=0.1, examples=6, batch_size=4, seed=seed) for seed in (1, 1, 2)
        )
        assert first == again and list(first) == list(again)
        assert first != other  # another draw of examples

    def test_takes_rows_in_any_form(self, tokenizer, rows):
        model = self.model()
        numbers = [row | {"label": model.config.label2id[row["label"]]} for row in rows]
        tokenised = [{**tokenizer(row["text"]), "labels": row["label"], "extra": None} for row in numbers]
        expected, *others = (
            choose(model, tokenizer, form, density=0.1, batch_size=8)
            for form in (rows, numbers, tokenised, (row for row in rows))
        )
        assert all(selection == expected for selection in others)

    def test_takes_token_labels(self, tokenizer):
        rows = [{"input_ids": [2, 5 + i % 3, 12, 3], "labels": [-100, i % 3, 0, -100]} for i in range(6)]
        assert choose(build(task="token"), tokenizer, rows, density=0.1, batch_size=4).count

    @pytest.mark.parametrize(
        ("rows", "changes", "message"),
        [
            ([], {}, "choose: dataset must have at least one row, got none"),
            ([{"text": "a"}], {}, "choose: dataset rows must have text and label, or input_ids and labels, got ['text']"),
            ([{"text": "a", "label": "x"}], {}, "choose: label must be one of the model's 3 labels, got 'x'"),
            ([{"text": "a", "label": 3}], {}, "choose: label must lie in [0, 3), got 3"),
            ([{"text": "a", "label": 0}], {"examples": 0}, "choose: examples must be at least 1, got 0"),
            ([{"text": "a", "label": 0}], {"batch_size": 0}, "choose: batch_size must be at least 1, got 0"),
            ([{"text": "a", "label": 0}], {"max_length": 0}, "choose: max_length must be at least 1, got 0"),
            (None, {"density": 0.0}, "budget: density must lie in (0, 1], got 0.0"),
            (None, {"kind": "blocks", "block": (32, 32)}, "Entries: block must divide the weight's shape (48, 32), got (32, 32)"),
            (
                None,
                {"kind": "rows+elements"},
                "units: kind must be one of rows, columns, blocks, heads, neurons, layers, embeddings, or several joined by +, "
                "got 'elements'",
            ),
            (
                None,
                {"kind": "columns+neurons"},
                "units: kinds that are added must not share a weight, got 'bert.encoder.layer.0.intermediate.dense.weight' in both",
            ),
            (None, {"kind": "embeddings", "per": "weight"}, "budget: per must be 'model' or 'layer' with units, got 'weight'"),
            (None, {"kind": "elements", "backward": 0.5}, "choose: backward must be None for elements, got 0.5"),
            (None, {"kind": "elements", "per": "weight"}, "choose: per must be model for elements, got 'weight'"),
            (
                None,
                {"kind": "elements", "rule": "saliency"},
                "choose: rule must be fisher or random for elements, got 'saliency'",
            ),
            (None, {"per": "head"}, "budget: per must be 'model', 'layer' or 'weight', got 'head'"),
            (None, {"layers": "lower"}, "choose: layers must be one of 'all', 'upper half', 'upper third', got 'lower'"),
        ],
        ids=str,
    )
    def test_errors(self, tokenizer, rows, changes, message):
        """Those that need no data come before the data is touched (None cannot be read at all)."""
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            choose(self.model(), tokenizer, rows, **changes)


@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "elements"])
def test_a_random_selection_has_the_density_and_its_seed(kind):
    model = build()
    selection = random_selection(model, density=0.25, kind=kind, block=(8, 8))
    assert list(selection) == list(eligible_weights(model))
    assert selection.count == pytest.approx(0.25 * sum(m.weight.numel() for m in eligible_weights(model).values()))
    assert selection == random_selection(model, density=0.25, kind=kind, block=(8, 8))
    assert selection != random_selection(model, density=0.25, kind=kind, block=(8, 8), seed=1)
    few = random_selection(model, density=1e-9, kind=kind, block=(8, 8), layers="upper half")
    assert all(entries.index.numel() == 1 for entries in few.values()) and set(few) < set(selection)
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\], got 0"):
        random_selection(model, density=0)


@pytest.mark.parametrize("density", [1e-9, 0.125, 0.3, 1.0])  # 0.3: three groups, which the strips do not divide into
@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "elements", "groups"])
def test_a_dry_selection_is_as_large_and_holds_no_index(kind, density):
    model = build()
    drawn, dry = (random_selection(model, density=density, kind=kind, block=(8, 8), seed=3, dry=d) for d in (False, True))
    assert dry.summary() == drawn.summary()
    for name, entries in drawn.items():
        held = dry[name].index
        assert held.is_meta and (held.shape, held.dtype) == (entries.index.shape, entries.index.dtype)
        assert (dry[name].layout, dry[name].compact_shape) == (entries.layout, entries.compact_shape)
