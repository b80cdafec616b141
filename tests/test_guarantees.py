"""The first eleven guarantees of DESIGN.md ("Semantics that must hold"), in its order."""

import pytest
import torch
from active_tokens import brute_force, compact_gradients, record
from models import batch, bits, build, everything, frozen, same, select, train
from torch import nn
from transformers import AutoModelForSequenceClassification
from two_ranks import STEPS, two_ranks

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.ops import registry

KINDS = ("rows", "columns", "blocks", "elements")
DTYPES = (torch.float32, torch.bfloat16)
PATCHED_IN_FULL = {"biases": True, "norms": True}


def patched(family="bert", task="sequence", kind="columns", dtype=torch.float32, dropout=0.0, seed=0, **options):
    model = build(family, task, dtype, seed, dropout)
    return model, clm.patch(model, select(model, kind), **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "energy"), [*((kind, 1.0) for kind in KINDS), ("columns", 0.9)])
@pytest.mark.parametrize(("family", "task"), [("bert", "sequence"), ("deberta", "sequence"), ("gpt2", "causal")])
def test_1_frozen_entries_are_bitwise_unchanged(family, task, kind, energy, dtype):
    """With decay, momentum, clipping, accumulation, mixed precision and active tokens; gpt2's embedding is tied to its output."""
    model, handle = patched(family, task, kind, dtype, dropout=0.1, head=False, energy=energy)
    before, untouched = bits(model), frozen(model, handle.selection)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2, betas=(0.8, 0.9), weight_decay=0.5, amsgrad=True)
    for step in range(4):
        for micro in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch(model, seed=2 * step + micro, task=task)).loss
            (loss / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    assert same(frozen(model, handle.selection), untouched)
    after = bits(model)
    assert all(not torch.equal(after[name], before[name]) for name in handle.selection)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["zero", "pretrained"])
def test_2_weight_decay_pulls_selected_entries_only(to, kind):
    model, handle = patched(kind=kind, head=False)
    pretrained, untouched = bits(model), frozen(model, handle.selection)
    optimizer = clm.SparseAdamW(model.parameters(), lr=0.1, betas=(0.0, 0.9), weight_decay=2.0, decay_to=to)
    train(model, optimizer, steps=1)
    moved = bits(model)
    for _ in range(10):  # without gradient and momentum, only the decay moves anything
        for values in handle.values.values():
            values.grad = torch.zeros_like(values)
        optimizer.step()
    for name, entries in handle.selection.items():
        target = 0 if to == "zero" else ops.gather(pretrained[name], entries)
        start, end = ops.gather(moved[name], entries), ops.gather(model.get_parameter(name).detach(), entries)
        torch.testing.assert_close(end - target, (start - target) * 0.8**10, rtol=1e-4, atol=1e-7)
    assert same(frozen(model, handle.selection), untouched)


@pytest.mark.parametrize("kind", ["rows", "columns", "elements"])
@pytest.mark.parametrize(("family", "task"), [("bert", "sequence"), ("gpt2", "causal")])
def test_3_everything_selected_equals_adamw_on_the_dense_model(family, task, kind):
    arguments = {"lr": 3e-3, "weight_decay": 0.1}
    dense, model = (build(family, task, torch.float64) for _ in range(2))
    clm.patch(model, everything(model, kind), **PATCHED_IN_FULL)
    expected = train(dense, torch.optim.AdamW(dense.parameters(), **arguments), 200, task=task)
    losses = train(model, clm.SparseAdamW(model.parameters(), **arguments), 200, task=task)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bits(model), bits(dense), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("dtype", "lr"), [(torch.bfloat16, 1e-5), (torch.float16, 1e-6)], ids=str)
def test_4_float32_masters_of_the_selected_entries_alone(dtype, lr):
    """Updates far below one step of the weights' dtype add up; plain AdamW loses every one of them."""
    entries = clm.Entries.of("rows", range(0, 64, 4), (64, 64))

    def run(optimizer_class):
        torch.manual_seed(0)
        layer = nn.Linear(64, 64, dtype=dtype)
        nn.init.uniform_(layer.weight, 0.04, 0.06)
        before = layer.weight.detach().clone()
        if optimizer_class is clm.SparseAdamW:
            clm.patch(layer, clm.Selection({"weight": entries}), head=False)
        optimizer = optimizer_class(layer.parameters(), lr=lr, weight_decay=0)
        for _ in range(100):
            layer(torch.ones(1, 64, dtype=dtype)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return (layer.weight.detach() != before)[::4], optimizer

    moved, optimizer = run(clm.SparseAdamW)
    plainly_moved, _ = run(torch.optim.AdamW)
    assert moved.all() and not plainly_moved.any()
    (state,) = optimizer.state.values()
    assert state["master"].dtype == torch.float32 and state["master"].shape == entries.compact_shape
    assert all(tensor.numel() <= entries.count for tensor in state.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["bert", "deberta", "gpt2", "gemma3"])
def test_5_checkpoints_are_the_unpatched_models_and_resuming_is_exact(family, dtype, tmp_path):
    def start():
        model, _ = patched(family, dtype=dtype, **PATCHED_IN_FULL)
        return model, clm.SparseAdamW(model.parameters(), lr=1e-2)

    whole, optimizer = start()
    train(whole, optimizer, 4)
    first, optimizer = start()
    train(first, optimizer, 2)
    plain = build(family, dtype=dtype)
    described = [{name: (t.shape, t.dtype) for name, t in model.state_dict().items()} for model in (first, plain)]
    assert described[0] == described[1]

    first.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(info.values()) and type(loaded) is type(plain)
    assert same(bits(loaded), bits(first))

    second, optimizer = start()
    second.load_state_dict(loaded.state_dict())
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    train(second, optimizer, 2, seed=2)
    assert same(bits(second), bits(whole))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_6_a_delta_applies_and_reverts_bit_for_bit_and_refuses_another_base(kind, dtype, tmp_path):
    base, model = build(dtype=dtype), build(dtype=dtype)
    handle = clm.patch(model, select(model, kind), **PATCHED_IN_FULL)
    train(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
    handle.delta().save(tmp_path / "task.safetensors")
    before, delta = bits(base), clm.Delta.load(tmp_path / "task.safetensors")
    assert not same(before, bits(model))

    delta.apply(base)
    assert same(bits(base), bits(model))
    delta.revert()
    assert same(bits(base), before)

    other = build(dtype=dtype, seed=1)
    before = bits(other)
    with pytest.raises(ValueError, match="does not hold the values of the base"):
        delta.apply(other)
    assert same(bits(other), before)


@pytest.mark.parametrize("energy", [1.0, 0.9])
@pytest.mark.parametrize("family", ["bert", "deberta", "gpt2", "gemma3"])
def test_7_restore_leaves_nothing_behind(family, energy):
    def look(model):
        modules = [(name, type(m), sorted(m.__dict__), list(m._parameters)) for name, m in model.named_modules()]
        hooks = [{key: list(value) for key, value in m.__dict__.items() if "hooks" in key and value} for m in model.modules()]
        hooks += [bool(p._post_accumulate_grad_hooks or p._backward_hooks) for p in model.parameters()]
        return modules, hooks, [p.requires_grad for p in model.parameters()]

    model = build(family)
    model.base_model.get_input_embeddings().weight.requires_grad_(False)
    before = look(model)
    handle = clm.patch(model, select(model), **PATCHED_IN_FULL, energy=energy)
    train(model, clm.SparseAdamW(model.parameters()), 1)
    assert look(model) != before
    handle.restore()
    assert look(model) == before


def accumulated(model, optimizer, seed):
    for micro in range(3):
        (model(**batch(model, seed=10 * seed + micro)).loss / 3).backward()
    optimizer.step()


def clipped(model, optimizer, seed):
    model(**batch(model, seed=seed)).loss.backward()
    assert nn.utils.clip_grad_norm_(model.parameters(), 0.01) > 0.01
    optimizer.step()


def scaled(model, optimizer, seed):
    scaler = model.__dict__.setdefault("_scaler", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    scaler.scale(model(**batch(model, seed=seed)).loss).backward()
    if seed == 1:  # this step must be skipped
        next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = torch.inf
    before = bits(model)
    scaler.step(optimizer)
    scaler.update()
    assert same(bits(model), before) == (seed == 1)


def closed(model, optimizer, seed):
    def closure():
        optimizer.zero_grad()
        loss = model(**batch(model, seed=seed)).loss
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad


def compiled(model, optimizer, seed):
    run = model.__dict__.setdefault("_run", torch.compile(model, backend="aot_eager"))
    run(**batch(model, seed=seed)).loss.backward()
    optimizer.step()


def scheduled(model, optimizer, seed):
    schedule = model.__dict__.setdefault("_schedule", torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)))
    model(**batch(model, seed=seed)).loss.backward()
    optimizer.step()
    schedule.step()


def one_group(model):
    return model.parameters()


def two_groups(model):
    head = [p for p in model.parameters() if p.shape[:1] == (3,)]
    rest = [p for p in model.parameters() if p.shape[:1] != (3,)]
    return [{"params": rest, "weight_decay": 0.3}, {"params": head, "lr": 1e-2, "amsgrad": True}]


@pytest.mark.parametrize("groups", [one_group, two_groups])
@pytest.mark.parametrize("lr", [1e-3, torch.tensor(1e-3, dtype=torch.float64)], ids=["float", "tensor"])
@pytest.mark.parametrize("step", [accumulated, clipped, scaled, closed, compiled, scheduled])
def test_8_training_loops_work_as_with_torchs_adamw(step, lr, groups):
    dense, model = build(dtype=torch.float64), build(dtype=torch.float64)
    clm.patch(model, everything(model), **PATCHED_IN_FULL)
    for trained, kind in ((dense, torch.optim.AdamW), (model, clm.SparseAdamW)):
        optimizer = kind(groups(trained), lr=lr.clone() if isinstance(lr, torch.Tensor) else lr)
        for seed in range(4):
            step(trained, optimizer, seed)
            optimizer.zero_grad()
    torch.testing.assert_close(bits(model), bits(dense), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("kind", "energy"), [*((kind, 1.0) for kind in KINDS), ("columns", 0.9)])
@pytest.mark.parametrize(("family", "task"), [("bert", "sequence"), ("gpt2", "causal")])
def test_9_same_seed_same_bits(family, task, kind, energy):
    def run():
        model, _ = patched(family, task, kind, dropout=0.2, energy=energy, **PATCHED_IN_FULL)
        losses = train(model, clm.SparseAdamW(model.parameters(), lr=1e-2), 4, task=task)
        return bits(model) | {"losses": losses}

    assert same(run(), run())


def test_10_ranks_hold_one_selection_and_exchange_compact_gradients_only():
    """More in test_ddp."""
    first, second = two_ranks("plain")
    assert first["selection"] == second["selection"] and same(first["weights"], second["weights"])
    assert sum(first["exchanged"]) == STEPS * first["compact"]


@pytest.mark.parametrize(("family", "task"), [("bert", "sequence"), ("gpt2", "causal"), ("modernbert", "sequence")])
def test_11_energy_1_is_the_backward_without_it_and_below_the_same_tokens_are_active_everywhere(family, task):
    """Padding never is; ties go by position. More in test_active and test_active_tokens; ranks that choose for themselves in test_ddp."""

    def gradients(**options):
        model, handle = patched(family, task, **PATCHED_IN_FULL, **options)
        seen, inputs = record(handle), batch(model, task=task)
        model(**inputs).loss.backward()
        real = set(inputs["attention_mask"].flatten().nonzero().flatten().tolist())
        return compact_gradients(handle), seen, real

    plain, nothing, _ = gradients()
    assert same(gradients(energy=1.0)[0], plain) and not nothing

    limited, seen, real = gradients(energy=0.9)
    assert not same(limited, plain)
    assert seen and all(0 < len(tokens) < len(real) and set(tokens) <= real for tokens in seen)

    dy = torch.ones(7, 4)
    dy[::2] *= -2
    dy[3] = 0
    for name in registry.MODULES:
        if ops.why_not(name) is None and registry.DEVICES[name] in (None, "cpu"):
            with ops.backend(f"{name},reference"):
                assert gradients(energy=0.9)[1] == seen
                index, count = ops.active_tokens(dy, 0.5)
                assert index[:count].tolist() == brute_force(dy, 0.5) == [0, 2, 4]
    first, second = (rank["shares"] for rank in two_ranks("energy"))
    assert first != second
