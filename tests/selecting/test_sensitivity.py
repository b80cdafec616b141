"""Sensitivity of a model against its dense gradients, and what a model is made of. The op alone: test_ops_sensitivity.py."""

import copy
import math
import re

import models
import pytest
import torch
from models import build
from oracles import assert_as_before, batches, everything_about, lived_in
from tolerances import assert_close
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import clm_kernels as clm
from clm_kernels.models.structure import base_model, bias_names, depths, head_names, norm_names, number_of_layers
from clm_kernels.selecting.scores.sensitivity import LAYERS, eligible_weights

DIM = {"rows": 1, "columns": 0}  # the dim of a dense gradient that a unit's squared norm sums over
on_kinds = pytest.mark.parametrize("kind", DIM)


def looped(model, given, kind):
    """Scores by a dense backward pass of every example alone."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    scores = dict.fromkeys(eligible_weights(model), 0)
    for batch in given:
        for i in range(len(batch["labels"])):
            example = {name: tensor[i : i + 1] for name, tensor in batch.items()}
            model.zero_grad()
            (model(**example).loss * (example["labels"] != -100).sum()).backward()
            for name in scores:
                scores[name] += model.get_parameter(name).grad.square().sum(DIM[kind])
    return scores


class TestSensitivity:
    @on_kinds
    @pytest.mark.parametrize(
        ("family", "task"),
        [("bert", "token"), *((family, "sequence") for family in ("bert", "distilbert", "modernbert", "gpt2", "llama"))],
    )
    def test_equals_a_loop_of_dense_gradients(self, family, task, kind):
        model = build(family, task, dtype=torch.float64, dropout=0.3)
        given = batches(model, task)
        scores, expected = clm.sensitivity(model, given, kind=kind), looped(model, given, kind)
        assert list(scores) == list(expected)
        for name in scores:
            assert_close(scores[name] / expected[name].max(), expected[name] / expected[name].max())

    @pytest.mark.parametrize("task", ["sequence", "token"])
    def test_does_not_depend_on_the_batches(self, task):
        model = build(task=task, dtype=torch.float64)
        whole = batches(model, task, 1)[0]
        singles = [{name: tensor[i : i + 1] for name, tensor in whole.items()} for i in range(4)]
        together, alone = clm.sensitivity(model, [whole]), clm.sensitivity(model, iter(singles))
        for name in together:
            assert_close(alone[name], together[name])

    @pytest.mark.parametrize("layers", LAYERS)
    def test_scores_the_eligible_weights_only(self, layers):
        model = build(num_hidden_layers=3)
        scores = clm.sensitivity(model, batches(model), kind="rows", layers=layers)
        assert list(scores) == list(eligible_weights(model, layers))
        assert all(
            score.shape == (model.get_parameter(name).shape[0],) and bool((score >= 0).all()) for name, score in scores.items()
        )

    @pytest.mark.parametrize("fails", [False, True])
    def test_leaves_the_model_as_it_was(self, fails):
        model = lived_in(build(dropout=0.3))
        before, given = everything_about(model), batches(model)
        if fails:
            given[1]["labels"] = given[1]["labels"] + 10
            with pytest.raises(IndexError):
                clm.sensitivity(model, given)
        else:
            clm.sensitivity(model, given)
        assert_as_before(model, before)

    @on_kinds
    @pytest.mark.parametrize("family", ["bert", "gpt2"])
    def test_works_under_autocast(self, family, kind):
        """Where a layer's input may be float32 and its output bfloat16."""
        model = build(family)
        given = batches(model)
        expected = clm.sensitivity(model, given, kind=kind)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = clm.sensitivity(model, given, kind=kind)
        for name in scores:
            assert (scores[name] - expected[name]).norm() < 0.1 * expected[name].norm(), name

    def test_works_under_no_grad(self):
        model = build()
        with torch.no_grad():
            inside = clm.sensitivity(model, batches(model))
        outside = clm.sensitivity(model, batches(model))
        assert models.same(inside, outside)  # twice the same bits, too

    def test_makes_no_dense_weight_gradient(self):
        model = build()
        shapes = {tuple(sorted(weight.shape)) for weight in model.parameters() if weight.dim() == 2}

        class Products(TorchDispatchMode):
            def __init__(self):
                super().__init__()
                self.made = set()

            def __torch_dispatch__(self, op, types, args=(), kwargs=None):
                result = op(*args, **(kwargs or {}))
                if op.overloadpacket in (
                    torch.ops.aten.mm,
                    torch.ops.aten.addmm,
                    torch.ops.aten.bmm,
                    torch.ops.aten.embedding_dense_backward,
                ):
                    self.made.add(tuple(sorted(result.shape)))
                return result

        with Products() as products:
            clm.sensitivity(model, batches(model))
        assert products.made and not products.made & shapes
        with Products() as products:  # what a dense backward pass would show
            model(**batches(model)[0]).loss.backward()
        assert products.made & shapes


class TestEligibleWeights:
    LAYER = {
        "bert": ("bert.encoder.layer.{}.", ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                                            "intermediate.dense", "output.dense"]),
        "distilbert": ("distilbert.transformer.layer.{}.", ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
                                                            "ffn.lin1", "ffn.lin2"]),
        "gpt2": ("transformer.h.{}.", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
        "llama": ("model.layers.{}.", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                                       "mlp.up_proj", "mlp.down_proj"]),
    }  # fmt: skip

    @pytest.mark.parametrize("family", LAYER)
    @pytest.mark.parametrize(("layers", "first"), [("all", 0), ("upper half", 2), ("upper third", 3)])
    def test_of_each_family(self, family, layers, first):
        """Neither embeddings nor poolers nor heads, whatever they are called."""
        model = build(family, **{{"distilbert": "n_layers", "gpt2": "n_layer"}.get(family, "num_hidden_layers"): 4})
        prefix, names = self.LAYER[family]
        found = eligible_weights(model, layers)
        assert set(found) == {f"{prefix.format(i)}{name}.weight" for i in range(first, 4) for name in names}
        assert all(model.get_submodule(name.removesuffix(".weight")) is module for name, module in found.items())
        bare = eligible_weights(base_model(model), layers)  # a model without a head
        assert set(bare) == {name.partition(".")[2] for name in found}

    def test_a_head_of_numbered_layers_is_none_of_the_models(self):
        model = build()
        expected = set(eligible_weights(model))
        model.classifier = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
        assert set(eligible_weights(model)) == expected and number_of_layers(model) == 2
        assert {depths(model)[name] for name in head_names(model)} == {math.inf}

    def test_upper_parts_of_any_number_of_layers(self):
        for count in range(1, 200):
            assert math.ceil(count * LAYERS["upper half"]) == -(-count // 2)
            assert math.ceil(count * LAYERS["upper third"]) == -(-2 * count // 3)

    def test_errors(self):
        with pytest.raises(
            ValueError, match=r"^choose: layers must be one of 'all', 'upper half', 'upper third', got 'lower half'$"
        ):
            eligible_weights(build(), "lower half")
        with pytest.raises(
            ValueError, match=r"^choose: the model must have linear weights in numbered layers, got none in ModuleDict$"
        ):
            eligible_weights(nn.ModuleDict({"only": nn.Linear(2, 2)}))


class TestStructure:
    HEADS = {
        "bert": {"classifier.weight", "classifier.bias"},
        "distilbert": {"pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"},
        "gpt2": {"score.weight"},
        "llama": {"score.weight"},
        "modernbert": {"head.dense.weight", "head.norm.weight", "classifier.weight", "classifier.bias"},
    }

    @pytest.mark.parametrize("family", HEADS)
    def test_heads_layers_biases_and_norms(self, family):
        model = build(family)
        named = dict(model.named_parameters())
        head = set(head_names(model))
        assert head == self.HEADS[family] and head_names(base_model(model)) == []
        assert number_of_layers(model) == 2
        depth = depths(model)
        numbers = [depth[name] for name in named if name not in head]
        assert (
            numbers == sorted(numbers) and set(numbers) <= {-1, 0, 1, math.inf} and {depth[name] for name in head} == {math.inf}
        )
        biases, norms = bias_names(model), norm_names(model)
        assert not biases & norms and biases | norms <= set(named)
        assert biases | norms >= {name for name, parameter in named.items() if parameter.dim() == 1}
        assert all(re.search("norm|ln_", name, re.IGNORECASE) for name in norms)

    def test_a_plain_module(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        assert head_names(model) == [] and number_of_layers(model) == 2
        assert bias_names(model) == {"0.bias"} and norm_names(model) == {"1.weight", "1.bias"}
        assert number_of_layers(nn.Linear(2, 2)) == 0
