"""What a Delta knows of how it was made, and what it does to a model beside its weights; files of the former format."""

import gc
import json
import weakref

import pytest
import torch
from models import bits, build, same, select, train
from safetensors import safe_open
from safetensors.torch import load_file

import clm_kernels as clm
from clm_kernels.models.pooling import current_pooling, set_pooling
from clm_kernels.tensors import write_tensors


def trained(family="bert", pooling="mean", layers=None, **options):
    """A model that has learnt something, and its handle."""
    model = set_pooling(build(family), pooling).model
    if layers:
        clm.bidirectional(model, layers)
    handle = clm.patch(model, select(model, "rows"), **options)
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), 1)
    return model, handle


def rewritten(path, **changes):
    """The file with other metadata and a checksum that matches; None takes an entry out."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    del metadata["checksum"]
    metadata = {name: value for name, value in (metadata | changes).items() if value is not None}
    write_tensors(path, load_file(path), metadata)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "task.safetensors"


def test_a_file_of_the_former_format_is_read_as_before(path):
    model, handle = trained("llama", "max", (1, 2))
    handle.delta().save(path)
    made = {"task": "sequence", "max_length": 9, "pooling": "max", "model": "/base", "dtype": "float32", "bidirectional": [1, 2]}
    rewritten(path, format="clm_kernels.delta/1", recipe=None, made=json.dumps(made | {"best": {"f1": 0.5}}))
    delta, base = clm.Delta.load(path), build("llama")
    assert delta.recipe == clm.Recipe("sequence", "/base", 9, "max", (1, 2), dtype="float32", details={"best": {"f1": 0.5}})
    before = bits(base)
    with delta.apply(base) as applied:
        assert applied.model is base and applied.delta is delta and same(bits(base), bits(model))
        assert (current_pooling(base), clm.bidirectional_layers(base)) == ("max", range(1, 2))
    assert (current_pooling(base), clm.bidirectional_layers(base)) == ("native", range(0)) and same(bits(base), before)
    delta.save(path)
    assert clm.Delta.load(path).recipe == delta.recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": json.dumps({"version": 2})}, "Recipe: version must be 1, the one that is known here, got 2"),
        ({"recipe": None}, "Delta.load: .* is incomplete or altered"),
        ({"recipe": "{"}, "."),
        (
            {"format": "clm_kernels.delta/3"},
            "must have format clm_kernels.delta/2 or clm_kernels.delta/1, got clm_kernels.delta/3",
        ),
    ],
    ids=["another version", "none", "no JSON", "another format"],
)
def test_records_that_cannot_be_read(path, changes, message):
    trained()[1].delta().save(path)
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=message):
        clm.Delta.load(path)


def test_what_is_given_stays_and_the_rest_is_the_models():
    given = clm.Recipe("token", "/elsewhere", 5, "cls", template="of {text}", dtype="bfloat16", details={"lr": 1e-2})
    handle = trained("llama", "mean", (0, 1))[1]
    found = handle.delta(recipe=given).recipe
    assert found == clm.Recipe("token", "/elsewhere", 5, "cls", (0, 1), "of {text}", "bfloat16", {"lr": 1e-2})
    own = handle.delta().recipe
    assert own == clm.Recipe("sequence", "", None, "mean", (0, 1), dtype="float32") and given.bidirectional is None


def test_a_plain_module_has_a_recipe_that_says_little():
    layer = torch.nn.Linear(4, 4)
    delta = clm.patch(layer, clm.Selection({"weight": clm.Entries.of("rows", [1], (4, 4))}), head=False).delta()
    assert delta.recipe == clm.Recipe(dtype="float32") and delta.labels == []


@pytest.mark.parametrize("pooling", ["native", "mean"])
@pytest.mark.parametrize("layers", [None, (0, 1)], ids=str)
def test_neither_model_nor_delta_is_kept_alive(pooling, layers):
    """Whatever applying it had to change."""
    base, delta = build("llama"), trained("llama", pooling, layers)[1].delta()
    handle = delta.apply(base)
    gone = weakref.ref(base)
    del base
    gc.collect()
    assert gone() is None and handle.model is None
    with pytest.raises(RuntimeError, match="is gone"):
        delta.revert()


def test_handle_and_revert_are_one():
    base, delta = build(), trained()[1].delta()
    before = bits(base)
    handle = delta.apply(base)
    delta.revert()
    handle.restore()
    assert same(bits(base), before)
    again = delta.apply(base)
    handle.restore()  # of an application that is over
    assert not same(bits(base), before)
    again.restore()
    assert same(bits(base), before)
    with pytest.raises(RuntimeError, match="not applied to any model"):
        delta.revert()


def test_a_handle_of_what_is_merged_changes_nothing():
    base, delta = build(), trained()[1].delta()
    handles, own = [], delta.apply
    delta.apply = lambda model: handles.append(own(model)) or handles[-1]
    delta.merge(base)
    merged = bits(base)
    handles[0].restore()
    assert same(bits(base), merged) and current_pooling(base) == "mean"


def test_an_error_on_the_way_leaves_the_model_alone():
    """Attention is changed first; a pooling that there is not is found out later."""
    delta, base = trained("llama", "mean", (0, 1))[1].delta(), build("llama")
    delta = clm.Delta(
        delta.selection, delta.values, delta.whole, delta.originals, recipe=clm.Recipe(pooling="first", bidirectional=(0, 1))
    )
    before = bits(base)
    with pytest.raises(ValueError, match="set_pooling: pooling must be one of"):
        delta.apply(base)
    assert not clm.bidirectional_layers(base) and same(bits(base), before)


def test_any_model_with_compact_values_counts_as_patched():
    """A weight that no patched layer covers has them too."""
    model = build("deberta")
    handle = clm.patch(model, select(model, "rows", where="rel_embeddings"))
    with pytest.raises(RuntimeError, match="the model is patched for training"):
        handle.delta().apply(model)


def test_the_labels_of_a_model_without_names():
    model = build(num_labels=4)
    handle = clm.patch(model, select(model))
    model.config.id2label = None
    assert handle.delta().labels == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
    model.config.id2label = {0: "a", 2: "c"}
    assert handle.delta().labels == ["a", "LABEL_1", "c", "LABEL_3"]
