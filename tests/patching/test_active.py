"""`patch(energy=)`: the gradients of a plain-torch simulation, the same bits at energy 1, and which tokens and layers take part."""

import copy
import io

import pytest
import torch
from active_tokens import assert_gradients_as_simulated, compact_gradients, record, simulate
from gradients import WHOLE, backward
from models import FAMILIES, MORE_FAMILIES, batch, bits, build, entries, same, select, train
from oracles import batches
from torch import nn

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.models.pooling import set_pooling
from clm_kernels.models.recomputing import checkpoint_layers, recompute_norms

ENERGY = 0.9
BY_ROLE = {"attention": 0.95, "value": 0.8, "feed_forward": 0.7}
COVERED = [family for family in FAMILIES + MORE_FAMILIES if family != "falcon"]  # whose linear layers have a forward of their own
TASKS = [(family, "sequence") for family in COVERED] + [
    ("bert", "token"),
    ("gpt2", "causal"),
    ("llama", "causal"),
]


def patched(family="bert", task="sequence", kind="columns", where="", dtype=torch.float32, energy=ENERGY, dropout=0.0, **changes):
    model = build(family, task, dtype, dropout=dropout, **changes)
    return model, clm.patch(model, select(model, kind, where=where), **WHOLE, energy=energy)


def simulated(family, task="sequence", dtype=torch.float32, energy=ENERGY):
    return simulate(build(family, task, dtype, **({"tie_word_embeddings": True} if task == "causal" else {})), energy)


@pytest.mark.parametrize("energy", [1, 1.0, "1", {"attention": 1}], ids=str)
@pytest.mark.parametrize(("family", "task"), TASKS)
def test_energy_1_gives_the_bits_of_no_energy(family, task, energy):
    plain = build(family, task)
    handle = clm.patch(plain, select(plain), **WHOLE)
    model, other = patched(family, task, energy=energy)
    assert torch.equal(backward(plain, task), backward(model, task))
    assert same(compact_gradients(handle), compact_gradients(other))
    assert not other.active and [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]


@pytest.mark.parametrize("energy", [ENERGY, BY_ROLE], ids=["one", "by role"])
@pytest.mark.parametrize(("family", "task"), TASKS)
def test_gradients_equal_a_plain_torch_simulation(family, task, energy):
    changes = {"tie_word_embeddings": True} if task == "causal" else {}
    model, handle = patched(family, task, dtype=torch.float64, energy=energy, **changes)
    dense, every = simulated(family, task, torch.float64, energy), build(family, task, torch.float64, **changes)
    torch.testing.assert_close(backward(model, task), backward(dense, task), rtol=1e-12, atol=0)
    assert_gradients_as_simulated(dense, handle)
    backward(every, task)
    with pytest.raises(AssertionError):  # the simulation leaves something out
        assert_gradients_as_simulated(every, handle, rtol=1e-3)


@pytest.mark.parametrize("kind", ["rows", "blocks", "elements"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_gradients_of_every_kind(family, kind):
    model, handle = patched(family, kind=kind, dtype=torch.float64)
    dense = simulated(family, dtype=torch.float64)
    backward(model), backward(dense)
    assert_gradients_as_simulated(dense, handle)


@pytest.mark.parametrize(("family", "where"), [("bert", "layer.0.attention.self.query"), ("gpt2", "h.0.attn")])
def test_frozen_layers_leave_tokens_out_of_their_input_gradient_too(family, where):
    model, handle = patched(family, where=where, dtype=torch.float64)
    frozen = [name for name in handle.active if f"{name}.weight" not in handle.values]
    dense = simulated(family, dtype=torch.float64)
    backward(model), backward(dense)
    assert_gradients_as_simulated(dense, handle)
    shares = handle.active.shares()
    assert any(name in frozen and ".1." in name and shares[name] < 1 for name in shares)
    assert all(type(model.get_submodule(name)).__name__.startswith("Compact") for name in frozen)


def test_below_the_lowest_selected_layer_nothing_is_chosen():
    model, handle = patched(where="layer.1.")
    backward(model)
    assert handle.active.shares() and all("layer.1." in name for name in handle.active.shares())


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama"])
@pytest.mark.parametrize("head", ["mean", "cls", "last", "token"])
def test_padding_is_never_active(family, head):
    """Texts of different length; labels only at real tokens."""
    task = "token" if head == "token" else "sequence"
    model = build(family, task)
    if task == "sequence":
        set_pooling(model, head)
    handle = clm.patch(model, select(model), energy=1 - 1e-9)
    seen, inputs = record(handle), batches(model, task, 1)[0]
    inputs["attention_mask"][1, 3:] = inputs["attention_mask"][2, 1:] = 0
    inputs["input_ids"][inputs["attention_mask"] == 0] = 7  # a word as any other
    if task == "token":
        inputs["labels"][inputs["attention_mask"] == 0] = -100
    model(**inputs).loss.backward()
    real = set(inputs["attention_mask"].flatten().nonzero().flatten().tolist())
    assert len(seen) == len(handle.active) and set().union(*map(set, seen)) <= real
    assert any(len(tokens) >= 4 for tokens in seen)


def test_energies_by_role_reach_the_layers_of_that_role():
    _, handle = patched(energy={"value": 0.5, "feed_out": 0.25})
    names = {f"bert.encoder.layer.{i}.{part}" for i in range(2) for part in ("attention.self.value", "output.dense")}
    assert {*handle.active} == names
    assert {layer.part for name, layer in handle.active.items() if "value" in name} == {0.5}
    _, fused = patched("modernbert", energy={"query": 0.5, "key": 0.25, "value": 0.75})
    assert [layer.part for layer in fused.active.values()] == [0.75] * 2  # the largest of those that are in one weight


@pytest.mark.parametrize(("family", "task"), [("bert", "sequence"), ("bert", "token"), ("gpt2", "sequence"), ("llama", "causal")])
def test_the_head_and_the_embeddings_see_every_token(family, task):
    model, handle = patched(family, task, energy=1e-9)
    plain = build(family, task)
    full = clm.patch(plain, select(plain), **WHOLE)
    names = [*handle.head, "bert.pooler.dense.weight"] if family == "bert" and task == "sequence" else handle.head
    assert all(".0." in f".{name}." or ".1." in f".{name}." for name in handle.active)
    backward(model, task), backward(plain, task)
    got, expected = compact_gradients(handle), compact_gradients(full)
    assert all(torch.equal(got[name], expected[name]) for name in names if name in expected)
    assert not same(got, expected)
    seen_by_embedding = {name for name in got if "wte" in name or "embed_tokens" in name or "word_embeddings" in name}
    assert seen_by_embedding and all(got[name].any() for name in seen_by_embedding)


def test_shares_count_what_was_kept_since_they_were_last_asked():
    model, handle = patched()
    assert handle.active.shares() == {}
    seen = record(handle)
    for seed in range(2):
        model(**batch(model, seed=seed)).loss.backward()
    shares = handle.active.shares(reset=False)
    assert shares == handle.active.shares() and shares.keys() == handle.active.keys() and handle.active.shares() == {}
    assert sum(shares.values()) * 2 * 28 == pytest.approx(sum(map(len, seen)))
    assert all(0 < share < 1 for share in shares.values())


@pytest.mark.parametrize("task", ["sequence", "token"])
def test_accumulated_gradients_are_those_of_each_batch(task):
    model, handle = patched(task=task, dtype=torch.float64)
    parts = []
    for seed in range(2):
        model.zero_grad()
        model(**batch(model, seed=seed, task=task)).loss.backward()
        parts.append(compact_gradients(handle))
    model.zero_grad()
    for seed in range(2):
        model(**batch(model, seed=seed, task=task)).loss.backward()
    summed = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    torch.testing.assert_close(compact_gradients(handle), summed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_autocast(family):
    model, handle = patched(family)
    dense = simulated(family)
    with torch.autocast("cpu", torch.bfloat16):
        expected, loss = dense(**batch(dense)).loss, model(**batch(model)).loss
    assert torch.equal(loss, expected)
    expected.backward(), loss.backward()
    assert_gradients_as_simulated(
        dense, handle, rtol=5e-2, atol=1e-4
    )  # in bf16, whose rounding may exchange a token for its neighbour
    assert all(values.grad.dtype == torch.float32 for values in handle.values.values())
    assert all(0 < share < 1 for share in handle.active.shares().values())


@pytest.mark.parametrize("how", ["reentrant", "not reentrant", "layers", "norms"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen3"])
def test_gradient_checkpointing(family, how):
    model, handle = patched(family)
    backward(model)
    expected, shares = compact_gradients(handle), handle.active.shares()
    model.zero_grad()
    if how == "layers":
        checkpoint_layers(model)
    elif how == "norms":
        recompute_norms(model)
    else:
        model.gradient_checkpointing_enable({"use_reentrant": how == "reentrant"})
    backward(model)
    assert same(compact_gradients(handle), expected) and handle.active.shares() == shares


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_compile_without_a_graph_break(family):
    torch._dynamo.reset()
    model, handle = patched(family)
    loss = backward(model)
    expected = compact_gradients(handle)
    handle.active.shares()
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(backward(compiled), loss)
    torch.testing.assert_close(compact_gradients(handle), expected, rtol=1e-5, atol=1e-7)
    assert handle.active.shares() == {}  # nothing is counted there


class Square(nn.Module):
    """Two numbered layers of one weight."""

    def __init__(self, tied=True):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        if tied:
            self.layers[1].weight = self.layers[0].weight

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return x


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_layers_of_one_weight(kind):
    torch.manual_seed(0)
    model = Square().double()
    dense = copy.deepcopy(model)
    x = torch.randn(9, 6, dtype=torch.float64) * torch.rand(9, 1, dtype=torch.float64) ** 3
    handle = clm.patch(model, clm.Selection({"layers.0.weight": entries((6, 6), kind, 0.5)}), energy=0.6)
    assert [*handle.active] == ["layers.0", "layers.1"]
    for trained in (simulate(dense, 0.6), model):
        (trained(x) * x).sum().backward()
    torch.testing.assert_close(
        handle.values["layers.0.weight"].grad, ops.gather(dense.layers[0].weight.grad, handle.selection["layers.0.weight"])
    )


def square(dtype=torch.float32, kind="columns"):
    """Its two layers of own weights, patched, and a batch whose rows differ in size."""
    torch.manual_seed(0)
    model, x = Square(tied=False).to(dtype), torch.randn(9, 6, dtype=dtype) * torch.rand(9, 1, dtype=dtype) ** 3
    return model, clm.patch(model, clm.Selection({"layers.0.weight": entries((6, 6), kind, 0.5)}), energy=0.6), x


def test_compile_with_inductor():
    """The second size is a symbol."""
    torch._dynamo.reset()
    model, handle, x = square()
    compiled = torch.compile(model, fullgraph=True)
    for size in (9, 7):
        model.zero_grad()
        (model(x[:size]) * x[:size]).sum().backward()
        expected = compact_gradients(handle)
        model.zero_grad()
        (compiled(x[:size]) * x[:size]).sum().backward()
        torch.testing.assert_close(compact_gradients(handle), expected)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (0, 6), (2, 0, 6), (2, 3, 6)], ids=str)
@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_inputs_of_any_shape(shape, kind):
    model, handle, _ = square(torch.float64, kind)
    dense = simulate(Square(tied=False).double(), 0.6)
    dense.load_state_dict(model.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    grads = []
    for trained in (dense, model):
        given = x.clone().requires_grad_()
        trained(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(*grads)
    if x.numel():
        assert_gradients_as_simulated(dense, handle)
    else:
        assert not compact_gradients(handle)["layers.0.weight"].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_moved_to_the_gpu_after_a_backward():
    model, handle, x = square()
    for place in ("cpu", "cuda", "cpu"):
        there = x.to(place)
        (model.to(place)(there) * there).sum().backward()
    assert all(0 < share < 1 for share in handle.active.shares().values())


@pytest.mark.parametrize(("family", "task"), [("bert", "sequence"), ("gpt2", "causal"), ("modernbert", "token")])
@pytest.mark.parametrize("how", ["deepcopy", "handle", "pickle"])
def test_a_copy_trains_on_its_own(family, task, how):
    model, handle = patched(family, task)
    backward(model, task), model.zero_grad()
    shares = handle.active.shares(reset=False)
    if how == "handle":
        twin = copy.deepcopy(handle).model
    elif how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    losses = train(twin, clm.SparseAdamW(twin.parameters(), lr=1e-2), task=task)
    assert handle.active.shares() == shares
    assert torch.equal(losses, train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), task=task))
    assert same(bits(model), bits(twin)) and handle.active.shares()


@pytest.mark.parametrize("factor", [0.0, float("nan")])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_gradient_of_zeros_or_nan_is_as_without_energy(family, factor):
    model, handle = patched(family)
    plain = build(family)
    other = clm.patch(plain, select(plain), **WHOLE)
    for trained in (model, plain):
        (trained(**batch(trained)).loss * factor).backward()
    got, expected = compact_gradients(handle), compact_gradients(other)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        assert torch.equal(gradient.nan_to_num(7.0), expected[name].nan_to_num(7.0)), name
    assert set(handle.active.shares().values()) == ({0.0} if factor == 0 else {1.0})


def test_eval_and_no_grad_give_the_unpatched_outputs():
    model, inputs = patched()[0].eval(), {name: tensor for name, tensor in batch(build()).items() if name != "labels"}
    expected = build().eval()(**inputs).logits
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("move", [lambda m: m.to(torch.bfloat16), lambda m: m.double()], ids=["bfloat16", "float64"])
def test_moved_after_patching(move):
    model, handle = patched()
    backward(model), model.zero_grad()
    move(model)
    other = move(build())
    twin = clm.patch(other, handle.selection, **WHOLE, energy=ENERGY)
    backward(model), backward(other)
    assert same(compact_gradients(handle), compact_gradients(twin))


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_restore_leaves_nothing_behind(family):
    model = build(family)
    before = [(name, type(m), sorted(m.__dict__), list(m._parameters)) for name, m in model.named_modules()]
    handle = clm.patch(model, select(model, where="1."), energy=ENERGY)
    train(model, clm.SparseAdamW(model.parameters()), 1)
    handle.restore()
    assert [(name, type(m), sorted(m.__dict__), list(m._parameters)) for name, m in model.named_modules()] == before
    fresh = build(family)
    fresh.load_state_dict(model.state_dict())
    backward(model), backward(fresh)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), fresh.parameters()) if b.grad is not None)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * (x @ self.weight.T)


def _with_doubled():
    model = Square(tied=False)
    model.layers[1] = Doubled(6, 6)
    return model


def _hooked():
    model = Square(tied=False)
    model.layers[1].forward = model.layers[1].forward
    return model


REFUSED = {
    "energy must be 1 for a model with 'layers.1', a Doubled whose backward nobody here knows, got 0.5": _with_doubled,
    "the forward of Linear at 'layers.1.weight' has been replaced on the instance": _hooked,
    "energy must be 1 for a model with 'transformer.h.0.self_attention.query_key_value', a FalconLinear .* got 0.5": (
        lambda: build("falcon")
    ),
    "energy must be 1 for a Bilinear, which has no linear layer in numbered layers, got 0.5": lambda: nn.Bilinear(2, 2, 2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_covered_is_refused_by_name_and_left_as_it_was(message):
    model = REFUSED[message]()
    chosen = {"layers.0.weight": entries((6, 6))} if isinstance(model, Square) else {}
    before = [(type(m), sorted(m.__dict__), list(m._parameters)) for m in model.modules()]
    with pytest.raises(ValueError, match=f"^patch: {message}"):
        clm.patch(model, clm.Selection(chosen), energy=0.5)
    assert [(type(m), sorted(m.__dict__), list(m._parameters)) for m in model.modules()] == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    if "replaced" not in message:
        clm.patch(model, clm.Selection(chosen))


@pytest.mark.parametrize("energy", [0, 1.5, {"head": 0.5}, "most"], ids=str)
def test_an_energy_out_of_range_leaves_the_model_alone(energy):
    model = build()
    with pytest.raises(ValueError, match=r"^patch: energy must be "):
        clm.patch(model, select(model), energy=energy)
    assert not any(hasattr(module, "compact") for module in model.modules())
