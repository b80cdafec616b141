"""PEFT's calls on adapters of selected entries: what is trained, what the base holds, what comes out."""

import copy
import pickle

import pytest
import torch
from models import bits, build, same
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft_adapters import KINDS, adapted, base_bits, config, layers, logits, train
from safetensors.torch import load_file, save_file

from clm_kernels import Selection
from clm_kernels.peft import ClmConfig
from clm_kernels.selecting.units.control import random_selection

OTHER = {"kind": "columns", "seed": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two trained adapters of one base in one folder, and what each gives by itself."""
    folder = tmp_path_factory.mktemp("adapters")
    model = train(adapted())
    model.add_adapter("other", config(**OTHER))
    alone = {"default": logits(model)}
    model.set_adapter("other")
    alone["other"] = logits(train(model, seed=5))
    model.save_pretrained(folder)
    return folder, alone


@pytest.fixture
def both(saved):
    """A model that has read both."""
    model = PeftModel.from_pretrained(build(), saved[0]).eval()
    model.load_adapter(saved[0] / "other", "other")
    return model


def selected(model, adapter="default"):
    """Weight name -> a mask of the adapter's entries."""
    found = {}
    for name, layer in layers(model.get_base_model()).items():
        mask = torch.zeros(layer.weight.shape, dtype=torch.bool)
        found[f"{name}.weight"] = (
            mask.view(-1).index_fill_(0, layer.entries(adapter).flat_index().flatten(), True).view(mask.shape)
        )
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_selected_entries_and_merging_gives_the_same_bits(kind, dtype):
    before = bits(build(dtype=dtype))
    model = train(adapted(kind=kind, dtype=dtype))
    assert same(base_bits(model), before)
    active, masks = logits(model), selected(model)
    merged = model.merge_and_unload()
    assert torch.equal(logits(merged), active)
    for name, tensor in bits(merged).items():
        changed = tensor != before[name]
        if name in masks:
            assert changed.any() and not changed[~masks[name]].any()
        else:
            assert changed.any() == name.startswith("classifier.")


def test_an_adapter_begins_as_the_base_and_can_be_disabled():
    model = adapted()
    base = logits(build().eval())
    assert torch.equal(logits(model), base)
    trained = logits(train(model))
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), trained) and not torch.equal(trained, base)


def test_its_files_hold_no_pickle_and_nothing_of_the_base(saved):
    folder, _ = saved
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    tensors = load_file(folder / "adapter_model.safetensors")
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    assert {key.rpartition(".")[2] for key in tensors if key.startswith(query)} == {
        "clm_index",
        "clm_layout",
        "clm_mark",
        "clm_values",
    }
    rest = {key for key in tensors if ".clm_" not in key}
    assert rest == {f"base_model.model.classifier.{part}" for part in ("weight", "bias")}
    assert len(tensors) == 4 * 12 + 2


def test_adapters_are_read_and_set_in_turn(saved, both, recwarn):
    before = bits(build())
    for name in ("default", "other", "default"):
        both.set_adapter(name)
        assert torch.equal(logits(both), saved[1][name])
        assert same(base_bits(both), before)
    assert not [each for each in recwarn if "another base" in str(each.message)]
    other = [layer.entries("other").kind for layer in layers(both).values()]
    assert other == ["columns"] * 12


def test_it_is_read_without_memory_for_it(saved):
    model = PeftModel.from_pretrained(build(), saved[0], low_cpu_mem_usage=True).eval()
    assert torch.equal(logits(model), saved[1]["default"])


def test_merging_and_unmerging_is_exact_in_bfloat16():
    before = bits(build(dtype=torch.bfloat16))
    model = train(adapted(dtype=torch.bfloat16, biases=True))
    model.add_adapter("other", config(kind="rows", density=0.5, biases=True, init_weights=False))
    active = logits(model)
    model.merge_adapter()
    assert torch.equal(logits(model), active) and not same(base_bits(model), before)
    model.merge_adapter(["other"])
    model.unmerge_adapter()
    assert same(base_bits(model), before)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(build(dtype=torch.bfloat16).eval()))
    assert same(base_bits(model), before)


@pytest.mark.parametrize("kind", ["columns", "elements"])
def test_two_active_adapters_add_their_changes(kind):
    model = adapted(task_type=None, init_weights=False, kind=kind)
    model.add_adapter("other", config(task_type=None, init_weights=False, kind="rows"))
    model.base_model.set_adapter(["default", "other"])
    layer = next(iter(layers(model).values()))
    base = layer.weight.detach().clone()
    changes = []
    for adapter in ("default", "other"):
        alone = base.clone().view(-1)
        alone[layer.entries(adapter).flat_index().flatten()] = layer.clm_values[adapter].detach().flatten()
        changes.append(alone.view(base.shape) - base)
    x = torch.randn(5, base.shape[1])
    apart = layer(x)
    torch.testing.assert_close(apart, torch.nn.functional.linear(x, base + sum(changes), layer.bias), rtol=1e-6, atol=1e-5)
    layer.merge()
    assert torch.equal(layer(x), apart)


def test_deleting_and_unloading_leave_the_base(both):
    before = bits(build())
    both.delete_adapter("other")
    assert same(base_bits(both), before) and not any("other" in name for name in both.state_dict())
    both.merge_adapter()
    left = bits(both.unload())
    assert left.keys() == before.keys()
    assert all(
        torch.equal(left[name], before[name]) for name in before if not name.startswith("classifier.")
    )  # PEFT leaves the head


def test_a_deleted_active_adapter_gives_way_to_the_other(saved, both):
    both.set_adapter("default")
    both.delete_adapter("default")
    both.set_adapter("other")
    assert torch.equal(logits(both), saved[1]["other"])


def test_a_weighted_adapter_changes_by_the_weighted_sum():
    options = {"task_type": None, "init_weights": False, "biases": True}
    model = adapted(**options)
    model.add_adapter("other", config(**OTHER | options))
    model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "sum")
    assert model.active_adapters == ["default"]
    for layer in layers(model).values():
        base = layer.weight.detach().clone()
        changes, biases = {}, {}
        for name in ("default", "other", "sum"):
            layer.merge(adapter_names=[name])
            changes[name] = layer.weight.detach() - base
            layer.unmerge()
            biases[name] = layer.clm_biases[name].detach() - layer.bias.detach()
        for found in (changes, biases):
            torch.testing.assert_close(found["sum"], 0.5 * found["default"] - 2 * found["other"], rtol=0, atol=1e-5)
        assert layer.entries("sum") == layer.entries("default") | layer.entries("other")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"adapters": ["default", "no"]}, "adapters must be of 'default', got"),
        ({"weights": [1.0, 2.0]}, "weights must be 1 numbers, got 2"),
        ({"adapter_name": "default"}, "adapter_name must be a new name, got 'default'"),
        ({"combination_type": "svd"}, "combination_type must be 'linear', got 'svd'"),
        ({}, r"adapters must be without modules_to_save, .* got \['default'\]"),
    ],
)
def test_weighted_adapters_that_are_refused(changed, message):
    arguments = {"adapters": ["default"], "weights": [1.0], "adapter_name": "sum"} | changed
    with pytest.raises(ValueError, match=f"add_weighted_adapter: {message}"):
        adapted().add_weighted_adapter(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_what_the_package_draws(kind):
    model = adapted(kind=kind, density=0.2, seed=3)
    expected = random_selection(build(), density=0.2, kind=kind, seed=3)
    found = {f"{name}.weight": layer.entries("default") for name, layer in layers(model.get_base_model()).items()}
    assert found == dict(expected)


def test_a_selection_is_trained_and_stands_in_the_file_alone(tmp_path):
    selection = random_selection(build(), density=0.1, kind="rows", layers="upper half", seed=2)
    selection.save(tmp_path / "selection")
    for given in (selection, tmp_path / "selection"):
        model = train(get_peft_model(build(), ClmConfig(selection=given, task_type="SEQ_CLS"))).eval()
        found = {f"{name}.weight": layer.entries("default") for name, layer in layers(model.get_base_model()).items()}
        assert found == dict(selection) and len(found) == 6
        model.save_pretrained(tmp_path / "adapter")
        again = PeftModel.from_pretrained(build(), tmp_path / "adapter").eval()
        assert torch.equal(logits(again), logits(model))
        assert again.peft_config["default"].selection is None and again.peft_config["default"].kind == "given"


def test_a_target_that_the_selection_does_not_name_is_refused():
    selection = random_selection(build(), density=0.1, layers="upper half")
    with pytest.raises(ValueError, match=r"target_modules must be layers of which the selection names entries, got 'bert\.enc"):
        get_peft_model(build(), ClmConfig(selection=selection, target_modules=["query"]))
    with pytest.raises(ValueError, match=r"Selection: 'nowhere\.weight' is not a weight of this model"):
        get_peft_model(build(), ClmConfig(selection=Selection({"nowhere.weight": next(iter(selection.values()))})))


def test_another_base_is_told_of(saved):
    with pytest.warns(UserWarning, match=r"trained on another base: 12 of 12 weights hold other values there, as 'bert\.enc"):
        PeftModel.from_pretrained(build(seed=1), saved[0])


def test_the_same_base_in_bfloat16_is_no_other(saved, recwarn):
    PeftModel.from_pretrained(build(dtype=torch.bfloat16), saved[0])
    assert not [each for each in recwarn if "another base" in str(each.message)]


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.clm_"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(f"{QUERY}index"), "must be values, index, layout and mark, got"),
        (lambda tensors: tensors[f"{QUERY}layout"].fill_(7), "layout must be a kind"),
        (lambda tensors: tensors.update({f"{QUERY}layout": torch.ones(3)}), "must be five whole numbers, got torch.float32"),
        (lambda tensors: tensors[f"{QUERY}index"].fill_(10**6), "index must be"),
        (lambda tensors: tensors.update({f"{QUERY}values": torch.ones(2, 2)}), "must be of shape"),
    ],
    ids=["a tensor gone", "no such kind", "no layout", "out of bounds", "too few values"],
)
def test_damaged_files_are_refused(saved, tmp_path, damage, message):
    folder, _ = saved
    tensors = load_file(folder / "adapter_model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(build(), tmp_path)


def test_copies_and_pickles_give_the_same(both):
    expected = logits(both)
    assert torch.equal(logits(copy.deepcopy(both)), expected)
    assert torch.equal(logits(pickle.loads(pickle.dumps(both))), expected)


def test_a_whole_state_dict_brings_its_entries():
    trained, other = train(adapted(seed=1)), adapted(seed=2)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(logits(other), logits(trained))
    assert all(a.entries("default") == b.entries("default") for a, b in zip(layers(other).values(), layers(trained).values()))


def test_only_compact_parameters_are_trained():
    model = adapted()
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert all(".clm_values." in name or ".modules_to_save." in name for name in trained)
    count = sum(layer.entries("default").count for layer in layers(model).values())
    assert sum(each.numel() for name, each in trained.items() if ".clm_values." in name) == count
    assert get_peft_model_state_dict(model).keys() == get_peft_model_state_dict(adapted(seed=9)).keys()


def test_layers_to_transform_hold_for_the_default_targets():
    model = adapted(layers_to_transform=[1])
    assert len(layers(model)) == 6 and all(".layer.1." in name for name in layers(model))


def test_for_tests_an_adapter_begins_beside_the_base():
    assert not torch.equal(logits(adapted(init_weights=False)), logits(build().eval()))


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.read = torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6, bias=False)
        self.read.weight = self.embed.weight

    def forward(self, ids):
        return self.read(self.embed(ids))


def test_two_layers_of_one_weight_are_refused():
    """Each would put back what it found there, which is what the other had written."""
    with pytest.raises(ValueError, match=r"ClmModel: the target 'read' must be a layer with a weight of its own, got .*'embed'"):
        get_peft_model(Tied(), ClmConfig(target_modules=["embed", "read"], kind="rows"))


def test_an_embedding_reads_no_columns_from_a_file(tmp_path):
    model = get_peft_model(torch.nn.Sequential(torch.nn.Embedding(6, 4)), ClmConfig(target_modules=["0"], kind="rows"))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    prefix = next(iter(tensors)).rpartition(".")[0]
    layout = tensors[f"{prefix}.clm_layout"].clone()
    layout[0] = 1  # columns
    columns = {"layout": layout, "index": torch.tensor([2], dtype=torch.int32), "values": torch.zeros(6, 1)}
    save_file(
        tensors | {f"{prefix}.clm_{name}": tensor for name, tensor in columns.items()}, tmp_path / "adapter_model.safetensors"
    )
    base = torch.nn.Sequential(torch.nn.Embedding(6, 4))
    with pytest.raises(ValueError, match=r"ClmModel: the kind of entries of '0' must be rows, as it is an embedding"):
        PeftModel.from_pretrained(base, tmp_path)
