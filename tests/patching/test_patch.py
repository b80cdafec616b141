"""Patched models: the same losses, compact gradients that equal the dense ones' entries, and everything people do to models."""

import copy
import io

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from gradients import WHOLE, assert_gradients_equal, backward, pair
from models import DECODERS, FAMILIES, batch, bits, build, embeddings, entries, same, select, train
from torch import nn

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.models.structure import depths

KINDS = ("rows", "columns", "blocks", "elements")
TASKS = [(family, "sequence") for family in FAMILIES] + [("bert", "token")] + [(family, "causal") for family in DECODERS]


def gradients(handle):
    return {name: values.grad.clone() for name, values in handle.values.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "task"), TASKS)
def test_loss_and_gradients_equal_the_dense_models(family, task, kind):
    dense, model, handle = pair(family, task, kind)
    assert torch.equal(backward(dense, task), backward(model, task))
    assert_gradients_equal(dense, model, handle)
    assert {depths(model)[name] for name in handle.whole} >= {0, 1} and handle.selection.keys() <= handle.values.keys()


@pytest.mark.parametrize(("family", "kind"), [("bert", "columns"), ("gpt2", "elements"), ("gemma3", "blocks")])
def test_embeddings_of_any_kind(family, kind):
    """Rows go through the layer; other kinds, and rows of a tied one, through the dense gradient."""
    task = "sequence" if family == "bert" else "causal"
    dense, model = (build(family, task, tie_word_embeddings=True) for _ in range(2))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name in embeddings(model)}
    handle = clm.patch(model, clm.Selection((name, entries(shape, kind)) for name, shape in shapes.items()), head=False)
    assert torch.equal(backward(dense, task), backward(model, task))
    assert_gradients_equal(dense, model, handle)


def test_padding_row_gets_no_gradient():
    model = build("roberta")
    name = "roberta.embeddings.word_embeddings.weight"
    handle = clm.patch(model, clm.Selection({name: clm.Entries.everything("rows", (64, 32))}))
    ids = batch(model)["input_ids"]
    assert (ids == model.config.pad_token_id).any()
    model(ids).logits.sum().backward()  # without a mask, so that padding takes part
    row_is_trained = handle.values[name].grad.any(1)
    assert row_is_trained.nonzero().flatten().tolist() == sorted(set(ids.flatten().tolist()) - {model.config.pad_token_id})


def test_tied_weight_selected_under_both_names():
    dense, model = (build("gpt2", "causal") for _ in range(2))
    chosen = entries((64, 32), "elements")
    handle = clm.patch(model, clm.Selection({"lm_head.weight": chosen, "transformer.wte.weight": chosen}))
    assert handle.values["lm_head.weight"] is handle.values["transformer.wte.weight"]
    backward(dense, "causal"), backward(model, "causal")
    assert_gradients_equal(dense, model, handle)
    other = build("gpt2", "causal")
    with pytest.raises(ValueError, match="tied to another selected weight"):
        clm.patch(
            other, clm.Selection({"lm_head.weight": chosen, "transformer.wte.weight": entries((64, 32), "elements", seed=1)})
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_backward_stops_below_the_lowest_selected_layer(family):
    """Nothing below the selected layer is part of the graph, although biases and norms are trained."""
    dense, model, handle = pair(family, where="1." if family != "distilbert" else "layer.1.")
    seen = []
    for name, module in model.named_modules():
        if name.endswith((".0", "embeddings", "embed_tokens", "wte")) and any(True for _ in module.parameters()):
            module.register_forward_hook(lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    assert torch.equal(backward(dense), backward(model))
    assert len(seen) >= 2 and not any(out.requires_grad for out in seen)
    assert all(depths(model)[name] >= 1 for name in [*handle.values, *handle.whole])
    assert_gradients_equal(dense, model, handle)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen3"])
def test_gradient_checkpointing(family, reentrant):
    _, model, handle = pair(family)
    backward(model)
    expected = gradients(handle)
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    backward(model)
    assert same(gradients(handle), expected)


@pytest.mark.parametrize("family", ["bert", "deberta", "gpt2", "llama"])
def test_autocast(family):
    dense, model, handle = pair(family)
    with torch.autocast("cpu", torch.bfloat16):
        expected, loss = dense(**batch(dense)).loss, model(**batch(model)).loss
    assert torch.equal(loss, expected)
    expected.backward(), loss.backward()
    assert_gradients_equal(dense, model, handle, tolerance=2e-2)  # the dense ones are rounded to bf16
    assert all(values.grad.dtype == torch.float32 for values in handle.values.values())


@pytest.mark.parametrize(
    ("family", "task", "kind"), [("bert", "sequence", "columns"), ("llama", "causal", "rows"), ("gpt2", "sequence", "elements")]
)
def test_compile_without_a_graph_break(family, task, kind):
    _, model, handle = pair(family, task, kind)
    loss = backward(model, task)
    expected = gradients(handle)
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(backward(compiled, task), loss)
    torch.testing.assert_close(gradients(handle), expected, rtol=1e-5, atol=1e-7)


def test_compile_with_inductor():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4))
    chosen = {"0.weight": entries((8, 4), "rows", 0.5), "1.weight": entries((4, 4), "columns")}
    handle = clm.patch(model, clm.Selection(chosen), head=["1.bias"])
    ids = torch.tensor([[1, 2, 2, 3]])
    model(ids).square().sum().backward()
    expected = gradients(handle)
    model.zero_grad()
    torch.compile(model, fullgraph=True)(ids).square().sum().backward()
    torch.testing.assert_close(gradients(handle), expected)


def test_eval_no_grad_and_inference_give_the_unpatched_outputs():
    dense, model, _ = pair()
    for trained in (dense, model):
        trained.eval()
    inputs = {name: tensor for name, tensor in batch(model).items() if name != "labels"}
    expected = dense(**inputs).logits
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("family", DECODERS)
def test_generate(family):
    dense, model, _ = pair(family, "causal")
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), 2, task="causal")
    dense.load_state_dict(model.state_dict())
    prompt = {"input_ids": torch.tensor([[5, 6, 7]]), "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(model.eval().generate(**prompt), dense.eval().generate(**prompt))


@pytest.mark.parametrize(
    ("family", "task"), [("bert", "sequence"), ("deberta", "sequence"), ("gpt2", "causal"), ("gemma3", "causal")]
)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "handle"])
def test_a_copy_trains_on_its_own(family, task, how):
    _, model, handle = pair(family, task)
    if how == "handle":
        twin = copy.deepcopy(handle).model
    elif how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    before = bits(model)
    assert same(bits(twin), before)
    losses = train(twin, clm.SparseAdamW(twin.parameters(), lr=1e-2), task=task)
    assert same(bits(model), before)
    assert torch.equal(losses, train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), task=task))
    assert same(bits(model), bits(twin)) and not same(bits(model), before)


@pytest.mark.parametrize("family", ["bert", "deberta", "gpt2"])
@pytest.mark.parametrize(
    "move", [lambda m: m.to(torch.bfloat16), lambda m: m.double(), lambda m: m.to("cpu"), lambda m: m.half().float()]
)
def test_moved_after_patching(family, move):
    task = "causal" if family == "gpt2" else "sequence"
    _, model, handle = pair(family, task)
    move(model)
    other = move(build(family, task))
    clm.patch(other, handle.selection, **WHOLE)
    for trained in (model, other):
        train(trained, clm.SparseAdamW(trained.parameters(), lr=1e-2), 2, task=task)
    assert same(bits(model), bits(other))
    assert all(torch.equal(values, ops.gather(values.dense, values.entries)) for values in handle.values.values())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("family", ["bert", "deberta", "gpt2"])
def test_load_state_dict_after_patching(family, assign):
    """Values, hooks and ties follow the loaded weights, and `restore` gives the flags of the new ones back."""
    task = "causal" if family == "gpt2" else "sequence"
    _, model, handle = pair(family, task)
    other = build(family, task, seed=1)
    result = model.load_state_dict(bits(other), assign=assign)
    assert not result.missing_keys and not result.unexpected_keys
    clm.patch(other, handle.selection, **WHOLE)
    for trained in (model, other):
        train(trained, clm.SparseAdamW(trained.parameters(), lr=1e-2), 2, task=task)
    assert same(bits(model), bits(other))
    handle.restore()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_partial_load_leaves_the_rest():
    _, model, handle = pair()
    name = "bert.encoder.layer.0.output.dense.weight"
    model.load_state_dict({name: torch.zeros(32, 48)}, strict=False)
    assert not handle.values[name].any() and all(values.any() for other, values in handle.values.items() if other != name)


def test_two_tasks_one_after_the_other():
    """Patch, train, restore, and patch again with another selection: nothing of the first run lingers."""
    model = build()
    first = clm.patch(model, select(model, "rows"), **WHOLE)
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
    first.restore()
    fresh = build()
    fresh.load_state_dict(model.state_dict())
    for trained in (model, fresh):
        clm.patch(trained, select(trained, "columns"))
        train(trained, clm.SparseAdamW(trained.parameters(), lr=1e-2))
    assert same(bits(model), bits(fresh))


def test_nothing_selected_trains_the_head():
    model = build()
    before = bits(model)
    handle = clm.patch(model, clm.Selection())
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
    changed = {name for name, tensor in bits(model).items() if not torch.equal(tensor, before[name])}
    assert changed == set(handle.whole) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("kind", KINDS)
def test_empty_entries_train_nothing(kind):
    model = build(seed=3)
    name = "bert.encoder.layer.0.output.dense.weight"
    block = (4, 2) if kind == "blocks" else None
    clm.patch(model, clm.Selection({name: clm.Entries.of(kind, [], (32, 48), block)}))
    before = bits(model)[name]
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
    assert torch.equal(bits(model)[name], before)


def test_hooks_put_on_after_patching():
    """accelerate replaces forward on the instance; restore says so, and works once the hooks are gone."""
    dense, model, handle = pair("gpt2")
    layers = [module for module in model.modules() if hasattr(module, "compact")]
    for layer in layers:
        add_hook_to_module(layer, ModelHook())
    assert torch.equal(backward(dense), backward(model))
    assert_gradients_equal(dense, model, handle)
    with pytest.raises(RuntimeError, match=r"restore: the forward of a .* has been replaced"):
        handle.restore()
    for layer in layers:
        remove_hook_from_module(layer)
    handle.restore()
    assert torch.equal(model(**batch(model)).loss, dense(**batch(dense)).loss)


def test_write_between_forward_and_backward_is_noticed():
    _, model, handle = pair()
    loss = model(**batch(model)).loss
    with torch.no_grad():
        handle.values["bert.pooler.dense.weight"].dense.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused():
    _, model, handle = pair()
    values = handle.values["bert.encoder.layer.0.output.dense.weight"]
    (grad,) = torch.autograd.grad(model(**batch(model)).loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.square().sum().backward()


def test_gradients_from_before_are_cleared():
    model = build()
    backward(model)
    clm.patch(model, select(model))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("family", ["bert", "deberta", "gpt2"])
def test_moved_to_the_gpu_after_patching(family):
    """Values, their index and the weight move together, there and back."""
    dense, model, handle = pair(family)
    model.to("cuda")
    model(**{name: tensor.cuda() for name, tensor in batch(model).items()}).loss.backward()
    assert all(values.device == values.dense.device == values.entries.index.device for values in handle.values.values())
    model.to("cpu")
    backward(dense)
    assert_gradients_equal(dense, model, handle, tolerance=1e-4)
