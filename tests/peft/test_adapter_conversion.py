"""A delta becomes an adapter and an adapter a delta, to the bit."""

import pytest
import torch
from models import batch, bits, build, same, select
from peft_adapters import adapted, base_bits, layers, logits, train

import clm_kernels as clm
from clm_kernels.peft import from_delta, to_delta


def trained_delta(dtype=torch.float32, where="layer.1", **options):
    """Of a patched model, after a step by this package's optimizer."""
    model = build(dtype=dtype)
    handle = clm.patch(model, select(model, "columns", where=where), **options)
    optimizer = clm.SparseAdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    model(**batch(model)).loss.backward()
    optimizer.step()
    delta = handle.delta()
    handle.restore()
    return delta, model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"biases": True, "norms": True}], ids=["entries", "with biases and norms"])
def test_a_delta_becomes_an_adapter_and_comes_back(dtype, options):
    delta, tuned = trained_delta(dtype, **options)
    model = from_delta(build(dtype=dtype), delta, task_type="SEQ_CLS").eval()
    assert torch.equal(logits(model), logits(tuned))
    assert same(base_bits(model), bits(build(dtype=dtype)))
    again = to_delta(model)
    assert same(again.values, delta.values) and same(again.whole, delta.whole)
    assert dict(again.selection) == dict(delta.selection) and again.originals == delta.originals
    assert same(bits(model.merge_and_unload()), bits(tuned))


def test_an_adapter_becomes_a_delta():
    model = train(adapted(kind="groups", biases=True))
    delta = to_delta(model)
    base = build().eval()
    with delta.applied(base):
        assert torch.equal(logits(base), logits(model))
    assert same(bits(base), bits(build()))
    assert delta.recipe.task == "sequence" and len(delta.selection) == len(layers(model)) == 12
    with pytest.raises(ValueError, match="does not hold the values of the base"):
        delta.apply(build(seed=1))


def test_a_delta_is_a_copy():
    model = adapted(biases=True)
    delta = to_delta(model)
    before = {name: tensor.clone() for name, tensor in (delta.values | delta.whole).items()}
    train(model)
    assert same(delta.values | delta.whole, before)


def test_what_is_merged_stays_out_of_a_delta():
    model = train(adapted())
    expected = to_delta(model).originals
    model.merge_adapter()
    assert to_delta(model).originals == expected


def test_what_is_no_adapter_of_ours_is_refused():
    with pytest.raises(ValueError, match="to_delta: adapter_name must be one with a ClmConfig, got 'no'"):
        to_delta(adapted(), "no")


def test_deltas_that_no_adapter_holds_are_refused():
    delta, _ = trained_delta(biases=True)
    with pytest.raises(ValueError, match="does not hold the values of the base"):
        from_delta(build(seed=1), delta)
    left = {name: tensor for name, tensor in delta.whole.items() if "key.bias" not in name}
    marks = {name: mark for name, mark in delta.originals.items() if "key.bias" not in name}
    fewer = clm.Delta(delta.selection, delta.values, left, marks)
    with pytest.raises(
        ValueError, match=r"must be one that trained all biases of its layers or none, got one without .*key\.bias"
    ):
        from_delta(build(), fewer)
    alone = {name: tensor for name, tensor in left.items() if name == "classifier.weight"}
    partly = clm.Delta(delta.selection, delta.values, alone, {name: delta.originals[name] for name in delta.selection})
    with pytest.raises(
        ValueError, match=r"must be one that trained whole modules whole, got one that left out .*classifier\.bias"
    ):
        from_delta(build(), partly)
    other = clm.Delta(delta.selection, delta.values, {}, {name: delta.originals[name] for name in delta.selection}, recipe=clm.Recipe(pooling="max"))  # fmt: skip
    with pytest.raises(ValueError, match="from_delta: the model's pooling must be 'max', as in training, got"):
        from_delta(build(), other)
