"""Units of every family: what belongs together does so in the model's own arithmetic."""

import re

import models
import pytest
import torch
import transformers as tf
from models import CONFIGS, build
from torch import nn

from clm_kernels.models.linear import is_conv1d
from clm_kernels.selecting.scores.sensitivity import eligible_weights
from clm_kernels.selecting.units.coupling import heads, neurons
from clm_kernels.selecting.units.finding import find_units
from clm_kernels.selection import Entries, Selection

COUPLED = {"heads": heads, "neurons": neurons}
on_families = pytest.mark.parametrize("family", CONFIGS)
on_coupled = pytest.mark.parametrize("kind", COUPLED)
# keys and values of the tiny models; all others have 4 heads, or 12
grouped = {"falcon": 1} | dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma3"), 2)


def read_by(model, out, given):
    """What the module `out` is given when it runs first."""
    seen = []
    hook = model.get_submodule(out.removesuffix(".weight")).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(**given)
    hook.remove()
    return seen[0].flatten(0, -2)


@on_families
@on_coupled
def test_a_unit_reaches_its_own_features_and_no_others(family, kind):
    """Every output feature of a unit moves some of its input features to the out projection, together all of them."""
    model = build(family, dtype=torch.float64).eval()
    given = models.batch(model)
    for coupled in COUPLED[kind](model)[:1]:
        ((out, taken),) = coupled.inputs.items()
        before = read_by(model, out, given)
        for unit in (0, len(taken) - 1):
            reached = set()
            for name, index in coupled.outputs.items():
                weight, module = model.get_parameter(name).data, model.get_submodule(name.removesuffix(".weight"))
                for feature in index[unit].tolist():
                    row = weight[:, feature] if is_conv1d(module) else weight[feature]
                    kept = row.clone()
                    row += 0.3 * torch.randn(row.shape, dtype=row.dtype, generator=torch.Generator().manual_seed(feature))
                    moved = (read_by(model, out, given) - before).abs().amax(0) > 1e-12
                    row.copy_(kept)
                    assert moved.any()
                    reached |= set(moved.nonzero().flatten().tolist())
            assert reached == set(taken[unit].tolist())


@on_families
@on_coupled
def test_a_unit_that_nobody_reads_changes_nothing(family, kind):
    model = build(family, dtype=torch.float64).eval()
    given, units = models.batch(model), find_units(model, kind)
    unit = units.count - 1
    selection = units.select(torch.arange(units.count) == unit)
    *reading, out = selection.items()

    def logits():
        with torch.no_grad():
            return model(**given).logits

    def write(name, entries, values):
        model.get_parameter(name).data.view(-1)[entries.flat_index()] = values

    before = logits()
    assert out[0] in {name for coupled in COUPLED[kind](model) for name in coupled.inputs}
    write(*out, 0.0)
    without = logits()
    assert (without - before).abs().max() > 1e-9
    for name, entries in reading:
        write(name, entries, torch.randn(entries.compact_shape, dtype=torch.float64))
    assert torch.allclose(logits(), without, rtol=0, atol=1e-12)


@on_families
def test_heads_and_neurons_are_all_of_the_layers(family):
    model = build(family)
    units = find_units(model, "heads+neurons")
    everything = units.select(torch.ones(units.count, dtype=torch.bool))
    assert set(everything) == set(eligible_weights(model))
    for entries in everything.values():
        assert entries == Entries.everything(entries.kind, entries.shape)
    assert sum(units.entries) == everything.count  # so no entry belongs to two units
    layers = 1 if family == "albert" else 2
    assert find_units(model, "heads").count == layers * grouped.get(family, 12 if family == "minilm" else 4)


@on_families
def test_scores_and_entries_are_sums_over_the_members(family):
    model = build(family)
    units = find_units(model, "heads+neurons")
    random = torch.Generator().manual_seed(0)
    scores = {}
    for name, kind in units.kinds.items():
        scores[name] = torch.rand(Entries.of(kind, [], tuple(model.get_parameter(name).shape)).units, generator=random)
    found, entries, least = units.scores(scores), units.entries, units.least({n: float(i) for i, n in enumerate(units)})
    for unit in (0, 1, units.count // 2, units.count - 1):
        alone = units.select(torch.arange(units.count) == unit)
        assert entries[unit] == alone.count
        assert found[unit].item() == pytest.approx(sum(scores[n][e.index.long()].sum().item() for n, e in alone.items()))
        assert least[unit] == min(list(units).index(name) for name in alone)
    assert found.sum().item() == pytest.approx(sum(score.sum().item() for score in scores.values()))


@pytest.mark.parametrize("kind", ["rows", "columns", "blocks"])
def test_single_units_are_every_row_column_or_block(kind):
    model = build("gpt2")
    units = find_units(model, kind, block=(16, 8), layers="upper half")
    eligible = eligible_weights(model, "upper half")
    block = (16, 8) if kind == "blocks" else None
    whole = {name: Entries.everything(kind, tuple(module.weight.shape), block) for name, module in eligible.items()}
    assert units.select(torch.ones(units.count, dtype=torch.bool)) == Selection(whole)
    assert units.count == sum(entries.units for entries in whole.values())
    first = next(iter(whole))
    assert units.select(torch.arange(units.count) == 3) == Selection({first: Entries.of(kind, [3], whole[first].shape, block)})


def test_whole_layers_and_embeddings():
    model = build("llama", num_hidden_layers=3)
    units = find_units(model, "layers")
    assert units.count == 3
    second = units.select(torch.tensor([False, True, False]))
    assert set(second) == {name for name in eligible_weights(model) if ".layers.1." in name}
    assert all(entries.density == 1 for entries in second.values())
    rows = find_units(model, "layers+embeddings").select(torch.tensor([False] * 3 + [i == 5 for i in range(64)]))
    assert rows == Selection({"model.embed_tokens.weight": Entries.of("rows", [5], (64, 32))})


def bert(change):
    model = build()
    change(model.bert.encoder.layer[1])
    return model


def renamed(layer):
    layer.attention.self.q_a_proj = layer.attention.self.query
    del layer.attention.self.query


def sized(size):
    return lambda layer: setattr(layer.attention.self, "attention_head_size", size)


def linear(path, *features):
    *parents, last = path.split(".")
    return lambda layer: setattr(layer.get_submodule(".".join(parents)), last, nn.Linear(*features))


AT = "'bert.encoder.layer.1'"
FILL = "must have queries, keys and values in heads of {} that fill the output projection, got"
ERRORS = [
    (renamed, "heads", f"the attention of {AT} must have one weight each for query, key and value, or one of Wqkv,"),
    (linear("attention.self.gate", 32, 4), "heads", f"the attention of {AT} must have one output projection, got (out, in) of "),
    (sized(5), "heads", f"the attention of {AT} {FILL.format(5)}"),
    (sized(None), "heads", "BertSelfAttention must say its heads' size as head_dim or attention_head_size or head_size or "),
    (linear("attention.self.value", 32, 16), "heads", f"the attention of {AT} {FILL.format(8)}"),
    (linear("intermediate.dense", 32, 40), "neurons", f"the feed-forward part of {AT} must have one or two weights"),
    (linear("intermediate.dense", 16, 48), "neurons", f"the feed-forward part of {AT} must have weights that lead in from"),
    (lambda layer: None, "elements", "kind must be one of rows, columns, blocks, heads, neurons, layers, embeddings, or"),
    (lambda layer: None, "rows+heads", "kinds that are added must not share a weight, got 'bert.encoder.layer.0.att"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), ERRORS)
def test_errors_name_what_is_missing(change, kind, message):
    with pytest.raises(ValueError, match=f"^units: {re.escape(message)}"):
        find_units(bert(change), kind)


def test_a_fused_weight_of_unknown_order_is_refused():
    """GPT-BigCode's c_attn has GPT-2's name and shape, and each head's query, key and value side by side."""
    config = tf.GPTBigCodeConfig(vocab_size=64, n_embd=32, n_layer=1, n_head=4, multi_query=False, pad_token_id=0)
    model = tf.AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ValueError, match=r"must have one weight each for query, key and value.*got \(out, in\) of attn.c_attn"):
        find_units(model, "heads")


def test_a_model_without_a_feed_forward_part():
    model = build()
    for layer in model.bert.encoder.layer:
        layer.intermediate = layer.output = nn.Identity()
    with pytest.raises(ValueError, match=r"^units: the model's layers must have feed-forward weights beside the"):
        find_units(model, "neurons")
    with pytest.raises(ValueError, match=r"^Entries: block must divide the weight's shape"):
        find_units(model, "blocks", block=(5, 5))
