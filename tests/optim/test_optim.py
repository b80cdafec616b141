"""`SparseAdamW` against `torch.optim.AdamW`, its state, and the loops and libraries that drive it."""

import copy
import gc
import io

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from models import batch, bits, build, entries, same, select
from optimizers import ARGUMENTS, LOW, descend, layers, patched
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import clm_kernels as clm
from clm_kernels import ops

WHOLE = {"biases": True, "norms": True}


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 1e-8, 1e-10), (torch.float32, 1e-3, 1e-4)], ids=str)
@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "elements"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_everything_selected_equals_adamw(name, kind, dtype, rtol, atol):
    dense, (model, _) = layers(dtype), patched(kind, dtype)
    descend(dense, torch.optim.AdamW(dense.parameters(), **ARGUMENTS[name]))
    descend(model, clm.SparseAdamW(model.parameters(), **ARGUMENTS[name]))
    torch.testing.assert_close(bits(model), bits(dense), rtol=rtol, atol=atol)


@pytest.mark.parametrize("lr", [1e-2, torch.tensor(1e-2, dtype=torch.float64)], ids=["float", "tensor"])
def test_groups_and_scheduler(lr):
    def trained(model, kind):
        inner, outer = [[p for n, p in model.named_parameters() if (n[0] == "0") == first] for first in (True, False)]
        groups = [
            {"params": inner, "weight_decay": 0.5, "maximize": True},
            {"params": outer, "betas": (0.8, 0.9), "amsgrad": True},
        ]
        optimizer = kind(groups, lr=copy.deepcopy(lr))
        optimizer.add_param_group({"params": [extra := nn.Parameter(torch.ones(3, dtype=torch.float64))], "lr": 0.1})
        extra.grad = torch.ones_like(extra)
        descend(model, optimizer, 60, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60))
        return bits(model) | {"extra": extra.detach()}

    model, _ = patched("columns")
    torch.testing.assert_close(trained(model, clm.SparseAdamW), trained(layers(), torch.optim.AdamW), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_ordinary_parameters_alone_equal_torchs(dtype):
    """A drop-in for models that nobody has patched; 0-dim and empty parameters too."""

    def trained(kind):
        model = layers(dtype)
        model.register_parameter("scalar", nn.Parameter(torch.tensor(2.0, dtype=dtype)))
        model.register_parameter("empty", nn.Parameter(torch.empty(0, 3, dtype=dtype)))
        optimizer = kind(model.parameters(), lr=1e-2)
        model.scalar.grad, model.empty.grad = torch.ones((), dtype=dtype), torch.empty(0, 3, dtype=dtype)
        descend(model, optimizer, 30)
        return bits(model)

    close = {"rtol": 1e-8, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(trained(clm.SparseAdamW), trained(torch.optim.AdamW), **close)


@pytest.mark.parametrize("to", ["zero", "pretrained"])
def test_decay_against_a_hand_written_loop(to):
    model, handle = patched("elements", density=0.3)
    optimizer = clm.SparseAdamW(model.parameters(), lr=0.05, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.4, decay_to=to)
    values = handle.values["3.weight"]
    weight = start = values.detach().clone()
    m = v = torch.zeros_like(weight)
    for step in range(1, 31):
        model(torch.randn(5, 12, dtype=torch.float64)).square().sum().backward()
        grad = values.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        weight = weight - 0.05 * 0.4 * (weight - (start if to == "pretrained" else 0))
        m, v = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad**2
        weight = weight - 0.05 * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-6)
        torch.testing.assert_close(values.detach(), weight, rtol=1e-10, atol=1e-12)
    assert torch.equal(ops.gather(values.dense.detach(), values.entries), values)


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_low_precision_follows_float32(dtype):
    """With masters, weights stay within their own rounding of a run that keeps everything in float32."""
    weights = {}
    for kind in (torch.float32, dtype):
        layer = nn.Linear(16, 16, bias=False, dtype=kind)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.04, 0.06, 256).view(16, 16).to(dtype))
        clm.patch(layer, clm.Selection({"weight": clm.Entries.everything("rows", (16, 16))}), head=False)
        optimizer = clm.SparseAdamW(layer.parameters(), lr=2e-6)
        for _ in range(300):
            layer(torch.ones(1, 16, dtype=kind)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[kind] = layer.weight.detach().float()
    assert torch.equal(weights[dtype], weights[torch.float32].to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("arguments", [{}, {"amsgrad": True, "decay_to": "pretrained"}], ids=str)
def test_state_dict_round_trip_is_exact(dtype, arguments):
    """Through a file read with weights_only=True, into an optimizer over another copy of the model."""
    (model, _), (twin, _) = patched("columns", dtype), patched("columns", dtype)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2, **arguments)
    descend(model, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(model.state_dict())
    loaded = clm.SparseAdamW(twin.parameters(), lr=1e-2, **arguments)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for ours, theirs in zip(optimizer.state.values(), loaded.state.values(), strict=True):
        assert same(ours, theirs) and all(ours[key].dtype == theirs[key].dtype for key in ours)
        assert ("master" in ours) == (dtype in LOW) and ours["exp_avg"].dtype == torch.float32
    descend(model, optimizer, 5)
    descend(twin, loaded, 5)
    assert same(bits(model), bits(twin))


@pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("order", ["model first", "optimizer first"])
def test_going_back_to_a_checkpoint(dtype, order):
    """Both loads in either order, in place: masters are those of the checkpoint."""
    model, _ = patched("rows", dtype)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
    descend(model, optimizer, 3)
    weights, state = bits(model), copy.deepcopy(optimizer.state_dict())
    descend(model, optimizer, 4)
    expected = bits(model)
    loads = [lambda: model.load_state_dict(weights), lambda: optimizer.load_state_dict(state)]
    for load in loads if order == "model first" else reversed(loads):
        load()
    descend(model, optimizer, 4)
    assert same(bits(model), expected)


def test_loading_the_optimizer_alone_leaves_the_weights_where_they_are():
    """Masters of the checkpoint must not pull bf16 weights back to it."""
    model, handle = patched("rows", torch.bfloat16)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
    descend(model, optimizer, 1)
    state = copy.deepcopy(optimizer.state_dict())
    descend(model, optimizer, 20)
    before = {name: values.detach().clone() for name, values in handle.values.items()}
    optimizer.load_state_dict(state)
    optimizer.param_groups[0]["lr"] = 0.0
    descend(model, optimizer, 1)
    assert same(before, {name: values.detach() for name, values in handle.values.items()})


@pytest.mark.parametrize("write", ["load", "scatter"])
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_masters_follow_whoever_writes_into_the_model(dtype, write):
    model, handle = patched("rows", dtype)
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-4)
    descend(model, optimizer, 2)
    if write == "load":
        model.load_state_dict(layers(dtype).state_dict())
    else:
        with torch.no_grad():
            for values in handle.values.values():
                values.dense.zero_()
                values.refresh()
    before = bits(model)
    descend(model, optimizer, 1)
    for name, values in handle.values.items():
        assert (values.dense - before[name]).abs().max() < 1e-2
        assert torch.equal(optimizer.state[values]["master"].to(dtype), values)


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_state_of_torchs_adamw_is_taken_over(dtype):
    """It holds no masters; they are made, so that small updates count from then on."""
    (model, handle), (plain, _) = patched("rows", dtype), patched("rows", dtype)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    descend(plain, theirs, 2)
    model.load_state_dict(plain.state_dict())
    optimizer = clm.SparseAdamW(model.parameters())
    optimizer.load_state_dict(theirs.state_dict())
    descend(model, optimizer, 1)
    assert all(optimizer.state[values]["master"].dtype == torch.float32 for values in handle.values.values())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_of_model_and_optimizer_go_on_together(how):
    model, _ = patched("columns")
    both = model, clm.SparseAdamW(model.parameters(), lr=1e-2)
    descend(*both, 3)
    if how == "deepcopy":
        twins = copy.deepcopy(both)
    else:
        file = io.BytesIO()
        torch.save(both, file)
        file.seek(0)
        twins = torch.load(file, weights_only=False)
    before = bits(model)
    descend(*twins, 3)
    assert same(bits(model), before)
    descend(*both, 3)
    assert same(bits(model), bits(twins[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_twenty_bytes_per_selected_entry(dtype):
    """All tensors that training adds, values, gradients, moments, masters and indices, in the dearest kind: elements."""

    def alive():
        gc.collect()
        return {id(t): t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)}

    layer = nn.Linear(256, 256, bias=False, dtype=dtype).requires_grad_(False)
    former = alive()
    chosen = entries((256, 256), "elements", 0.1)
    clm.patch(layer, clm.Selection({"weight": chosen}), head=False)
    optimizer = clm.SparseAdamW(layer.parameters())
    layer(torch.ones(1, 256, dtype=dtype)).sum().backward()
    optimizer.step()
    added = [t for key, t in alive().items() if key not in former]
    added += [t.grad for t in added if t.is_leaf and t.grad is not None]
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in added}.values())
    assert 18 * chosen.count < held <= 20 * chosen.count + 1024


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_selection_on_an_unpatched_model_equals_the_patched_run(family):
    """Clipping, accumulation and all; every dense gradient is gone right after backward."""
    task = "causal" if family == "gpt2" else "sequence"
    weights = []
    for patch in (True, False):
        model = build(family, task, torch.float64)  # in float32, a gradient near 0 is one thing or another
        chosen = select(model, "elements")
        if patch:
            clm.patch(model, chosen, biases=True, norms=True)
            optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2)
        else:
            optimizer = clm.SparseAdamW(model.named_parameters(), lr=1e-2, selection=chosen)
        for step in range(3):
            for micro in range(2):
                model(**batch(model, seed=2 * step + micro, task=task)).loss.backward()
                assert all(model.get_parameter(name).grad is None for name in chosen)
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 0.5)
            optimizer.step()
            optimizer.zero_grad()
        weights.append(bits(model))
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-9)


def test_selection_on_an_unpatched_model_needs_its_own_zero_grad():
    """transformers' Trainer clears model.parameters() only: that must not go unnoticed."""
    model = layers()
    optimizer = clm.SparseAdamW(model.named_parameters(), selection=clm.Selection({"0.weight": entries((8, 12))}))
    model(torch.ones(1, 12, dtype=torch.float64)).sum().backward()
    optimizer.step()
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"clear gradients by optimizer.zero_grad\(\)"):
        model(torch.ones(1, 12, dtype=torch.float64)).sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, r"lr must be at least 0, got -1.0"),
        ({"lr": float("nan")}, "lr must be at least 0"),
        ({"lr": torch.ones(2)}, r"lr must be a number or a tensor of one element, got shape \(2,\)"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must lie in \[0, 1\), got 1.0"),
        ({"eps": -1e-8}, "eps must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"decay_to": "one"}, "decay_to must be 'zero' or 'pretrained', got 'one'"),
        ({"differentiable": True}, "differentiable must be False"),
        ({"selection": clm.Selection()}, r"params must be model.named_parameters\(\)"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=f"SparseAdamW: {message}"):
        clm.SparseAdamW(layers().parameters(), **arguments)


def test_a_selection_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"'7.weight' is not a weight of this model"):
        clm.SparseAdamW(layers().named_parameters(), selection=clm.Selection({"7.weight": entries((8, 12))}))
    with pytest.raises(ValueError, match=r"'0.weight' must have shape"):
        clm.SparseAdamW(layers().named_parameters(), selection=clm.Selection({"0.weight": entries((12, 8))}))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision):
    """prepare round-trips the state, and steps must still land in the model's own weights."""
    AcceleratorState._reset_state(reset_partial_state=True)
    model, handle = patched("columns", torch.float32)
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    prepared, optimizer = accelerator.prepare(model, clm.SparseAdamW(model.parameters(), lr=1e-2))
    before = bits(model)
    for step in range(4):
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(torch.full((2, 12), 1.0 + step)).square().sum())
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    after = bits(model)
    assert all(not torch.equal(after[name], before[name]) for name in handle.selection)
    assert all(torch.equal(ops.gather(values.dense.detach(), values.entries), values) for values in handle.values.values())


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 4


def trainer(folder, dtype, family="bert", stop=False, **changes):
    model = build(family, dtype=dtype, dropout=0.1)
    clm.patch(model, select(model), **WHOLE)
    examples = [{key: value[0] for key, value in batch(model, size=1, seed=seed).items()} for seed in range(32)]
    arguments = {"max_steps": 8, "save_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5,
                 "learning_rate": 1e-2, "lr_scheduler_type": "cosine", "warmup_steps": 2, "report_to": "none", "use_cpu": True,
                 "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "steps"} | changes  # fmt: skip
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-2, decay_to="pretrained")
    callbacks = [Stop()] if stop else []
    return Trainer(model, TrainingArguments(str(folder), **arguments), train_dataset=examples, eval_dataset=examples[:4],
                   optimizers=(optimizer, None), callbacks=callbacks)  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "deberta"])
@pytest.mark.parametrize(
    ("dtype", "changes"), [(torch.float32, {}), (torch.float32, {"bf16": True}), (torch.bfloat16, {})], ids=str
)
def test_trainer_resumes_bit_for_bit(dtype, changes, family, tmp_path):
    whole = trainer(tmp_path / "whole", dtype, family, **changes)
    whole.train()
    trainer(tmp_path / "part", dtype, family, stop=True, **changes).train()
    resumed = trainer(tmp_path / "part", dtype, family, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-4"))
    assert same(bits(resumed.model), bits(whole.model)) and not same(bits(whole.model), bits(build(family, dtype=dtype)))


def test_trainer_takes_the_best_checkpoint_back(tmp_path):
    """The compact values must follow, or the next step would write the last ones over the best ones."""
    run = trainer(
        tmp_path, torch.float32, eval_strategy="steps", eval_steps=2, save_steps=2, load_best_model_at_end=True, learning_rate=0.3
    )
    losses = []
    run.add_callback(
        type("Note", (TrainerCallback,), {"on_evaluate": lambda self, *_, metrics, **__: losses.append(metrics["eval_loss"])})
    )
    run.train()
    assert min(losses) < losses[-1]
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses))
    for values in (p for p in run.model.parameters() if isinstance(p, clm.Values)):
        assert torch.equal(ops.gather(values.dense.detach(), values.entries), values)
