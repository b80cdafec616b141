"""A delta knows its base: another one is refused, even where the delta writes nothing."""

import json
import re

import pytest
import torch
from models import bits, build, same, select, train
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import clm_kernels as clm
from clm_kernels.models.origin import base_fingerprint
from clm_kernels.tensors import write_tensors

UNTOUCHED = "bert.encoder.layer.0.attention.self.query.weight"


def trained(where="layer.1", model=None, **options):
    model = build() if model is None else model
    handle = clm.patch(model, select(model, "rows", where=where), **options)
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), 1)
    handle.restore()
    return model, handle.delta(recipe=clm.Recipe(model="minilm"))


def head_alone(model=None):
    model = build() if model is None else model
    handle = clm.patch(model, clm.Selection())
    return handle.delta(recipe=clm.Recipe(model="minilm"))


def another():
    model = build()
    model.get_parameter(UNTOUCHED).data.add_(1)
    model.name_or_path = "other"
    return model


@pytest.mark.parametrize("make", [lambda: trained()[1], head_alone], ids=["a selection", "a head alone"])
def test_another_base_is_refused_though_it_agrees_where_the_delta_writes(make, tmp_path):
    make().save(tmp_path / "d")
    delta, other = clm.Delta.load(tmp_path / "d"), another()
    assert delta.base == base_fingerprint(build())
    before = bits(other)
    expected = (
        "Delta: the model does not hold the values of the base this delta was made on: 'minilm' with the fingerprint "
        f"{delta.base[:12]}, got 'other' with {base_fingerprint(other)[:12]}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        delta.apply(other)
    with pytest.raises(ValueError, match="with the fingerprint"), delta.applied(other):
        pass
    with pytest.raises(ValueError, match="with the fingerprint"):
        delta.merge(other)
    assert same(bits(other), before)
    delta.merge(build())


def test_a_weight_that_differs_where_the_delta_writes_is_named_with_both():
    delta = trained(biases=True)[1]
    other = another()
    other.bert.encoder.layer[1].output.dense.bias.data.add_(1)
    told = (
        r"'bert\.encoder\.layer\.1\.output\.dense\.bias' does not hold .* on: 'minilm' with the fingerprint \w{12}, got 'other'"
    )
    with pytest.raises(ValueError, match=told):
        delta.apply(other)


def test_a_head_of_other_labels_and_a_pooler_drawn_anew_are_no_other_base():
    """A pooler that the checkpoint does not hold is drawn at random whenever the model is loaded."""
    delta, base = trained(head=False)[1], build()
    base.classifier = nn.Linear(32, 9)
    nn.init.normal_(base.bert.pooler.dense.weight)
    delta.apply(base)


def test_what_is_trained_whole_in_the_base_as_part_of_the_head_does_not_count():
    head = ["classifier.weight", "classifier.bias", UNTOUCHED]
    model, delta = trained(head=head)
    base = another()
    delta.apply(base)
    assert torch.equal(base.get_parameter(UNTOUCHED), model.get_parameter(UNTOUCHED))


def test_a_base_in_another_dtype_is_refused_by_its_dtype():
    for delta in (trained()[1], head_alone()):
        with pytest.raises(ValueError, match=r"must be torch\.float32 as in the base, got torch\.bfloat16"):
            delta.apply(build(dtype=torch.bfloat16))
    half = trained(model=build(dtype=torch.bfloat16))[1]
    half.apply(build(dtype=torch.bfloat16))


def test_several_are_merged_into_one_base():
    first, second = trained("layer.0", head=False)[1], trained("layer.1", head=False)[1]
    assert first.base == second.base
    model = second.merge(first.merge(build()))
    base = build()
    first.apply(base), second.apply(base)
    assert same(bits(model), bits(base))


def test_one_that_was_made_on_top_of_another_needs_that():
    first, again = (trained("layer.0", head=False)[1] for _ in range(2))
    below = build()
    again.apply(below)
    model, second = trained("layer.1", below, head=False)
    base = build()
    with pytest.raises(ValueError, match="with the fingerprint"):
        second.apply(base)
    first.apply(base), second.apply(base)
    assert same(bits(base), bits(model))


def rewritten(path, **changes):
    """The file with other metadata; None leaves a part out."""
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), **changes}
    metadata.pop("checksum")
    write_tensors(path, load_file(path), {name: text for name, text in metadata.items() if text is not None})
    return path


def test_an_older_file_does_not_know_its_base(tmp_path):
    trained()[1].save(tmp_path / "d")
    delta = clm.Delta.load(rewritten(tmp_path / "d", base=None))
    assert delta.base == ""
    delta.apply(another())


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"version": 2, "fingerprint": "0" * 32}, "the version of base must be 1, the one that is known here, got 2"),
        ({"version": True, "fingerprint": "0" * 32}, "base must be an object with version and fingerprint"),
        ({"version": 1, "fingerprint": "0" * 31}, "base must be a fingerprint of 32 hex digits, or nothing"),
        ({"version": 1, "fingerprint": 5}, "base must be an object with version and fingerprint"),
        ({"version": 1}, "base must be an object with version and fingerprint"),
        ([], "base must be an object with version and fingerprint"),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, told, message):
    trained()[1].save(tmp_path / "d")
    with pytest.raises(ValueError, match=message):
        clm.Delta.load(rewritten(tmp_path / "d", base=json.dumps(told)))
