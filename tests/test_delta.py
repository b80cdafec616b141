"""Deltas on disk and on models: exact, ordered, small, and refused wherever they do not belong."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from models import bits, build, entries, same, select, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import clm_kernels as clm
from clm_kernels.fingerprint import checksum
from clm_kernels.recipe import Recipe

WHOLE = {"biases": True, "norms": True}
NAME = "bert.encoder.layer.0.output.dense.weight"


def trained(family="bert", kind="elements", dtype=torch.float32, where="", seed=0, task="sequence", **options):
    """A model that has learnt something, and its handle."""
    model = build(family, task, dtype)
    handle = clm.patch(model, select(model, kind, where=where, seed=seed), **options)
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), 2, seed=seed, task=task)
    return model, handle


@pytest.fixture
def path(tmp_path):
    return tmp_path / "task.safetensors"


@pytest.mark.parametrize(
    ("family", "task"), [("gpt2", "causal"), ("deberta", "sequence"), ("modernbert", "token"), ("gemma3", "causal")]
)
def test_families(family, task, path):
    """Tied weights, weights read past their layer, scaled embeddings."""
    model, handle = trained(family, task=task, **WHOLE)
    handle.delta().save(path)
    base = build(family, task)
    before = bits(base)
    with clm.Delta.load(path).applied(base) as same_model:
        assert same_model is base and same(bits(base), bits(model))
    assert same(bits(base), before)


def test_what_the_file_holds(path):
    model, handle = trained(**WHOLE)
    model.config.id2label = {0: "billing", 1: "delivery", 2: "access"}
    handle.delta(recipe=Recipe(details={"lr": 1e-2})).save(path)
    delta = clm.Delta.load(path)
    assert delta.labels == ["billing", "delivery", "access"] and delta.recipe == Recipe(
        "sequence", pooling="native", dtype="float32", details={"lr": 1e-2}
    )
    assert dict(delta.selection) == dict(handle.selection)
    assert {"classifier.weight", "classifier.bias"} <= delta.whole.keys() == handle.whole.keys()
    assert handle.delta(labels=["a"]).labels == ["a"]
    assert os.stat(path).st_mode & 0o444 and os.listdir(path.parent) == [path.name]


def test_the_head_of_another_base_may_be_any(path):
    """A fresh head is random; only what the base brought along must match."""
    model, handle = trained()
    handle.delta().save(path)
    base = build()
    nn.init.normal_(base.classifier.weight)
    before = bits(base)
    delta = clm.Delta.load(path)
    delta.apply(base)
    assert same(bits(base), bits(model))
    delta.revert()
    assert same(bits(base), before)


def test_merge(path):
    model, handle = trained(**WHOLE)
    base, delta = build(), handle.delta()
    assert delta.merge(base) is base and same(bits(base), bits(model))
    base.save_pretrained(path.parent)
    assert same(load_file(path.parent / "model.safetensors"), bits(model))
    with pytest.raises(RuntimeError, match="not applied to any model"):
        delta.revert()


def test_last_in_first_out():
    base = build()
    before = bits(base)
    first = trained(where="layer.0", head=False)[1].delta()
    second = trained(where="layer.1", head=False, seed=7)[1].delta()
    first.apply(base)
    between = bits(base)
    second.apply(base)
    assert not same(bits(base), between)
    with pytest.raises(RuntimeError, match="another delta was applied after this one"):
        first.revert()
    with pytest.raises(RuntimeError, match="applied already"):
        second.apply(build())
    second.revert()
    assert same(bits(base), between)
    first.revert()
    assert same(bits(base), before)
    second.apply(base)  # in the other order
    first.apply(base)
    first.revert(), second.revert()
    assert same(bits(base), before)


def test_deltas_that_share_entries_do_not_stack():
    base = build()
    first, second = (trained(kind="rows", seed=seed)[1].delta() for seed in (0, 0))
    with first.applied(base), pytest.raises(ValueError, match="another delta is applied there"):
        second.apply(base)
    with second.applied(base):
        pass


def test_reverted_after_an_exception():
    base, delta = build(), trained()[1].delta()
    before = bits(base)
    with pytest.raises(KeyError), delta.applied(base):
        raise KeyError
    assert same(bits(base), before)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: build(seed=1), "does not hold the values of the base"),
        (lambda: build(dtype=torch.bfloat16), "must be torch.float32 as in the base, got torch.bfloat16"),
        (lambda: build(intermediate_size=64), r"must have shape \(48, 32\), got \(64, 32\)"),
        (lambda: build("roberta"), "is not a weight of this model"),
        (lambda: build(num_labels=4), r"'classifier.weight' must have shape \(3, 32\), got \(4, 32\)"),
        (lambda: trained(**WHOLE)[0], "patched for training"),
    ],
    ids=["weights", "dtype", "shape", "family", "head", "patched"],
)
def test_refused_and_nothing_written(other, message):
    delta, model = trained(**WHOLE)[1].delta(), other()
    before = bits(model)
    with pytest.raises((ValueError, RuntimeError), match=message):
        delta.apply(model)
    assert same(bits(model), before)


@pytest.mark.parametrize("name", [NAME, "bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.1.output.LayerNorm.weight"])
def test_one_bit_of_the_base_is_enough_to_refuse(name):
    _, handle = trained(**WHOLE)
    base = build()
    flat = base.get_parameter(name).data.view(-1)
    at = int(handle.selection[name].index[0]) if name in handle.selection else 0
    flat[at] = torch.nextafter(flat[at], torch.tensor(9.0))
    with pytest.raises(ValueError, match=f"'{name}' does not hold"):
        handle.delta().apply(base)


@pytest.mark.parametrize("value", [float("nan"), -0.0, float("inf")])
def test_odd_values_are_copied_bit_for_bit(value, path):
    layer = nn.Linear(4, 4)
    before = bits(layer)
    handle = clm.patch(layer, clm.Selection({"weight": entries((4, 4), "rows")}), head=False)
    row = int(handle.selection["weight"].index[0])
    with torch.no_grad():
        layer.weight[row] = value
    handle.restore()
    handle.delta().save(path)
    base = nn.Linear(4, 4)
    base.load_state_dict(before)
    with clm.Delta.load(path).applied(base):
        assert torch.equal(base.weight.view(torch.int32), layer.weight.view(torch.int32))
    assert same(bits(base), before)


def test_delta_after_restore():
    """It is what the model holds at the selected entries, so the same as before, and sees later changes."""
    model, handle = trained(**WHOLE)
    before = handle.delta()
    handle.restore()
    after = handle.delta()
    assert same(before.values, after.values) and same(before.whole, after.whole) and before.originals == after.originals
    with torch.no_grad():
        model.get_parameter(NAME).zero_()
    assert not handle.delta().values[NAME].any() and before.values[NAME].any()


@pytest.mark.parametrize(("dtype", "per_entry"), [(torch.bfloat16, 6), (torch.float32, 8)], ids=str)
def test_size_of_scattered_entries(dtype, per_entry, path):
    layer = nn.Linear(512, 512, dtype=dtype)
    handle = clm.patch(layer, clm.Selection({"weight": entries((512, 512), "elements", 0.05)}), head=False)
    handle.delta().save(path)
    assert path.stat().st_size <= per_entry * handle.selection.count + 1000


def test_size_of_rows(path):
    layer = nn.Linear(512, 512)
    handle = clm.patch(layer, clm.Selection({"weight": entries((512, 512), "rows", 0.05)}), head=False)
    handle.delta().save(path)
    assert path.stat().st_size <= 4.01 * handle.selection.count + 1000


@pytest.fixture
def saved(path):
    trained()[1].delta().save(path)
    return path


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 0.5, -1])
def test_truncated(saved, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"is truncated or no safetensors file"):
        clm.Delta.load(saved)


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9, 0.999])
def test_altered(saved, at):
    content = bytearray(saved.read_bytes())
    content[int(at * len(content))] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"has been altered|truncated or no safetensors"):
        clm.Delta.load(saved)


def test_something_else(saved, tmp_path):
    with pytest.raises(FileNotFoundError):
        clm.Delta.load(tmp_path / "nothing")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"must have format clm_kernels.delta/2 or clm_kernels.delta/1, got None"):
        clm.Delta.load(tmp_path / "other")
    clm.Delta.load(saved).selection.save(tmp_path / "selection")
    with pytest.raises(
        ValueError, match=r"must have format clm_kernels.delta/2 or clm_kernels.delta/1, got clm_kernels.selection/1"
    ):
        clm.Delta.load(tmp_path / "selection")


def craft(path, change):
    """Alters a file and gives it a checksum that matches."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, described = load_file(path), json.loads(metadata["entries"])
    originals = json.loads(metadata["originals"])
    del metadata["checksum"]
    change(tensors, described, originals, metadata)
    if "entries" in metadata:
        metadata["entries"] = json.dumps(described)
    if "originals" in metadata:
        metadata["originals"] = json.dumps(originals)
    save_file(tensors, path, metadata | {"checksum": checksum(tensors, metadata)})


def crafted_index(value):
    def change(tensors, described, originals, metadata):
        tensors[f"index.{NAME}"][-1] = value

    return change


def first_is_negative(tensors, *_):
    tensors[f"index.{NAME}"][0] = -1


def twice_the_same(tensors, *_):
    tensors[f"index.{NAME}"][1] = tensors[f"index.{NAME}"][0]


def wide_index(tensors, *_):
    tensors[f"index.{NAME}"] = tensors[f"index.{NAME}"].long()


def wrong_count(tensors, *_):
    tensors[f"values.{NAME}"] = tensors[f"values.{NAME}"][:-1]


def wider_weight(tensors, described, *_):
    """The index is in bounds of the shape in the file, but not of the model's weight."""
    described[NAME]["shape"] = [1000, 48]
    tensors[f"index.{NAME}"][-1] = 40_000


def other_kind(tensors, described, *_):
    described[NAME]["kind"] = "rows"


def no_shape(tensors, described, *_):
    del described[NAME]["shape"]


def no_index(tensors, *_):
    del tensors[f"index.{NAME}"]


def no_values(tensors, *_):
    del tensors[f"values.{NAME}"]


def values_without_index(tensors, described, originals, metadata):
    del described[NAME], originals[NAME]


def whole_and_selected(tensors, *_):
    tensors[f"whole.{NAME}"] = torch.zeros(32, 48)


def whole_of_another_shape(tensors, *_):
    tensors["whole.classifier.weight"] = torch.zeros(3, 33)


def whole_of_nothing(tensors, *_):
    tensors["whole.nothing"] = torch.zeros(3)


def values_of_another_dtype(tensors, *_):
    tensors[f"values.{NAME}"] = tensors[f"values.{NAME}"].view(torch.int32)


def no_original(tensors, described, originals, metadata):
    del originals[NAME]


def original_of_nothing(tensors, described, originals, metadata):
    originals["nothing"] = "0"


def no_labels(tensors, described, originals, metadata):
    del metadata["labels"]


CRAFTED = [crafted_index(32 * 48), crafted_index(2**31 - 1), crafted_index(-(2**31)), first_is_negative, twice_the_same, wide_index, wrong_count,
           wider_weight, other_kind, no_shape, no_index, no_values, values_without_index, whole_and_selected, whole_of_another_shape,
           whole_of_nothing, values_of_another_dtype, no_original, original_of_nothing, no_labels]  # fmt: skip


@pytest.mark.parametrize("change", CRAFTED, ids=lambda change: change.__name__)
def test_crafted_with_a_matching_checksum(saved, change):
    """Refused while loading or applying, before anything has been written."""
    craft(saved, change)
    base = build()
    before = bits(base)
    with pytest.raises(ValueError):
        clm.Delta.load(saved).apply(base)
    assert same(bits(base), before)


def test_crafting_itself_works(saved):
    craft(saved, lambda *_: None)
    clm.Delta.load(saved).apply(build())


CRASH = """
import os, sys, torch
from torch import nn
import clm_kernels as clm

layer = nn.Linear(4, 4)
handle = clm.patch(layer, clm.Selection({"weight": clm.Entries.everything("rows", (4, 4))}), head=False)
setattr(os, sys.argv[2], lambda *a: os._exit(9))
handle.delta().save(sys.argv[1])
"""


@pytest.mark.parametrize("during", ["fsync", "replace"])
def test_a_crash_while_saving_leaves_the_old_file(saved, during):
    before = saved.read_bytes()
    assert subprocess.run([sys.executable, "-c", CRASH, saved, during]).returncode == 9
    assert saved.read_bytes() == before
    clm.Delta.load(saved)


def test_an_error_while_saving_leaves_nothing_behind(saved, monkeypatch):
    before, delta = saved.read_bytes(), clm.Delta.load(saved)
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    for path in (saved, saved.with_name("new")):
        with pytest.raises(OSError, match="disk full"):
            delta.save(path)
    assert os.listdir(saved.parent) == [saved.name] and saved.read_bytes() == before


def test_one_entries_object_for_several_weights(path):
    """Safetensors refuses tensors that share memory."""
    shared = entries((32, 32))
    model = build()
    names = [f"bert.encoder.layer.{i}.attention.self.{part}.weight" for i, part in itertools.product(range(2), ("query", "key"))]
    handle = clm.patch(model, clm.Selection(dict.fromkeys(names, shared)))
    handle.delta().save(path)
    assert clm.Delta.load(path).selection[names[3]] == shared
