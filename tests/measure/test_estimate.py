"""`estimate`: predictions against the allocator's account, sums that are known beforehand, and what depends on what."""

import gc
import math
from dataclasses import replace

import models
import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from models import CONFIGS, build
from typer.testing import CliRunner

import clm_kernels as clm
from clm_kernels.cli import app
from clm_kernels.defaults import ACTIVE_SHARE
from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.methods import METHODS
from clm_kernels.measure.estimate import Estimate, estimate
from clm_kernels.measure.estimate.kernels import KernelsOf
from clm_kernels.measure.estimate.ledger import Ledger, size_of
from clm_kernels.measure.estimate.operations import flops
from clm_kernels.measure.profiling import memory, profiling
from clm_kernels.measure.subject import batch, prepare, resolved
from clm_kernels.measure.subject import build as build_subject
from clm_kernels.selecting import pipeline
from clm_kernels.selecting.scores.sensitivity import sensitivity
from clm_kernels.selecting.units.control import random_selection

SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 500}
BERT = tf.BertConfig(**SIZE, num_labels=5)
LLAMA = tf.LlamaConfig(**SIZE, num_key_value_heads=2, num_labels=5, pad_token_id=0)
LENGTH = 32
SMALL = TrainConfig(batch_size=4, kind="columns", density=0.05)


def on_cpu(model, config, length=LENGTH):
    """What `estimate` describes, made on the CPU, and a batch of it."""
    config = resolved(config, model, length, "on_cpu")
    return prepare(build_subject(model, config, "cpu"), config), batch(config, length, "cpu")


def step(prepared, inputs):
    prepared.model(**inputs).loss.backward()
    prepared.optimizer.step()
    prepared.optimizer.zero_grad()


def measured(model, config):
    prepared, inputs = on_cpu(model, config)
    with profiling(prepared.model, prepared.optimizer, steps=1, warm_up=2) as profiled:
        for _ in range(4):
            step(prepared, inputs)
    return profiled.report


CASES = {
    "full": (BERT, {"method": "full"}),
    "full, bf16, checkpointing": (LLAMA, {"method": "full", "dtype": "bfloat16", "gradient_checkpointing": True}),
    "head": (BERT, {"method": "head", "batch_size": 16}),
    "columns, tokens": (BERT, {"task": "token"}),
    "columns, bf16": (LLAMA, {"dtype": "bfloat16"}),
    "columns, bf16, checkpointing": (LLAMA, {"dtype": "bfloat16", "gradient_checkpointing": True}),
    "rows, upper half": (LLAMA, {"kind": "rows", "layers": "upper half"}),
    "rows, upper half, checkpointing": (BERT, {"kind": "rows", "layers": "upper half", "gradient_checkpointing": True}),
    "heads and neurons": (BERT, {"kind": "heads+neurons", "density": 0.2}),
    "dealt groups": (BERT, {"kind": "groups", "density": 0.125}),
    "dealt groups, active tokens": (BERT, {"kind": "groups", "density": 0.125, "energy": "0.9"}),
    "blocks and embeddings": (BERT, {"kind": "blocks+embeddings", "density": 0.1}),
    "lora": (BERT, {"method": "lora"}),
    "lora, all linear, bf16, checkpointing": (
        LLAMA,
        {"method": "lora", "lora_targets": "all-linear", "dtype": "bfloat16", "gradient_checkpointing": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_within_10_percent_of_what_the_allocator_says(case):
    model, changes = CASES[case]
    if changes.get("method") == "lora":
        pytest.importorskip("peft")
    config = replace(SMALL, **changes)
    found, report = estimate(model, config, LENGTH), measured(model, config)
    assert found.weights == report.bytes["weights"]
    assert found.optimizer_state + found.masters == pytest.approx(report.bytes["optimizer state"], rel=0.02)
    assert found.peak == pytest.approx(report.peak, rel=0.1)


@pytest.mark.parametrize("changes", [{"kind": kind, "density": 0.3} for kind in ("rows", "columns", "blocks", "groups")], ids=str)
def test_counted_as_if_drawn(changes, monkeypatch):
    """On the meta device nothing is drawn, and every byte is what it is for the indices that a draw gives."""
    config, asked = replace(SMALL, **changes), []

    def drawn(*args, dry, **options):
        asked.append(dry)
        return random_selection(*args, **options)

    dry = estimate(LLAMA, config, LENGTH)
    monkeypatch.setattr(pipeline, "random_selection", drawn)
    assert estimate(LLAMA, config, LENGTH) == dry and asked == [True]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_the_optimizer_holds_what_estimate_says(method, dtype):
    """To the byte: eight a trained number, four for the master of a bf16 one, and the counters of steps."""
    if method == "lora":
        pytest.importorskip("peft")
    config = replace(SMALL, method=method, dtype=dtype)
    found, (prepared, inputs) = estimate(LLAMA, config, LENGTH), on_cpu(LLAMA, config)
    step(prepared, inputs)
    masters = [state["master"] for state in prepared.optimizer.state.values() if "master" in state]
    assert found.masters == size_of(masters)
    assert found.optimizer_state + found.masters == memory.optimizer_state(prepared.optimizer)
    assert found.trained == prepared.trained
    numbers = 8 + 4 * (dtype == "bfloat16")
    if method == "full":  # torch's AdamW: two moments in the weights' own type, and no masters
        numbers = 8 if dtype == "float32" else 4
    assert numbers <= (found.optimizer_state + found.masters) / found.trained < numbers + 0.1


def test_lora_trains_its_matrices_and_the_head():
    pytest.importorskip("peft")
    lora = replace(SMALL, method="lora", dtype="bfloat16")
    found = estimate(LLAMA, lora, LENGTH)
    # of each layer the matrices beside query, of 64 features, and value, of 32
    assert found.trained == LLAMA.num_hidden_layers * 12 * (2 * 64 + 64 + 32) + 5 * 64
    assert found.trained < estimate(LLAMA, replace(lora, lora_targets="all-linear"), LENGTH).trained
    upper = estimate(LLAMA, replace(lora, layers="upper third", lora_rank=24), LENGTH)
    assert upper.trained == 1 * 24 * (2 * 64 + 64 + 32) + 5 * 64 and upper.activations < found.activations


def test_full_training_in_numbers():
    """Weights, two moments and, at the end of the backward pass, a gradient: four times the parameters, and what is on its way."""
    found = estimate(BERT, replace(SMALL, method="full", batch_size=1), 4)
    parameters = sum(p.numel() for p in build_subject(BERT, replace(SMALL, dtype="float32"), "meta").parameters())
    assert found.trained == parameters
    assert found.weights == 4 * parameters + 2 * 8 * BERT.max_position_embeddings  # two buffers of ids
    assert found.optimizer_state == pytest.approx(8 * parameters, rel=0.01) and found.masters == 0
    assert 0.9 * 4 * parameters < found.gradients <= 4 * parameters


def test_masters_are_float32_values_of_what_is_trained():
    found = estimate(LLAMA, replace(SMALL, dtype="bfloat16"), LENGTH)
    assert found.masters == 4 * found.trained
    assert found.optimizer_state == pytest.approx(8 * found.trained, rel=0.05)
    assert estimate(LLAMA, SMALL, LENGTH).masters == 0


def test_columns_keep_less_for_the_backward_pass_than_rows_do():
    columns, rows = (estimate(LLAMA, replace(SMALL, kind=kind, batch_size=16), LENGTH) for kind in ("columns", "rows"))
    assert columns.activations < 0.8 * rows.activations


def test_checkpointing_trades_memory_for_operations():
    full = replace(SMALL, method="full", batch_size=16)
    off, on = (estimate(LLAMA, replace(full, gradient_checkpointing=again), LENGTH) for again in (False, True))
    assert on.activations < 0.3 * off.activations and on.peak < off.peak
    assert on.flops > 1.2 * off.flops


def test_operations_are_those_of_the_cost_model():
    from clm_kernels.selecting.budget.cost import step_cost

    model = build_subject(LLAMA, replace(SMALL, dtype="float32"), "cpu")
    full = step_cost(model, batch=4, length=32)
    found = estimate(LLAMA, replace(SMALL, method="full"), LENGTH)
    assert found.flops == pytest.approx(full.forward + full.backward, rel=0.05)
    assert estimate(LLAMA, SMALL, LENGTH).flops < 0.8 * found.flops


@pytest.mark.parametrize("family", [BERT, LLAMA], ids=["bert", "llama"])
def test_an_energy_costs_the_assumed_share(family):
    """Of what the energy reaches, and memory stays."""
    from clm_kernels.selecting.budget.cost import CostModel

    config = replace(SMALL, kind="groups", density=0.125, dtype="float32")
    every, third = estimate(family, config, LENGTH), estimate(family, replace(config, energy="0.99"), LENGTH, active_share=0.3)
    assert every.active_share is None and third.active_share == 0.3
    prepared, _ = on_cpu(family, config)
    model = build_subject(family, config, "cpu")
    model_cost, whole = CostModel(model, 4, LENGTH), {"biases": True, "norms": True}
    full, less = (model_cost.of(prepared.handle.selection, **whole, shares=share).backward for share in (1, 0.3))
    assert every.flops - third.flops == pytest.approx(full - less, rel=0.02)
    assert third.flops < 0.75 * every.flops and third.peak == pytest.approx(every.peak, rel=0.02)
    part = estimate(family, replace(config, energy="feed_forward=0.99"), LENGTH, active_share=0.3)
    assert third.flops < part.flops < every.flops
    assert estimate(family, replace(config, energy="0.99"), LENGTH).active_share == ACTIVE_SHARE
    assert estimate(family, replace(config, energy="1"), LENGTH) == every


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_families(family):
    found = estimate(build(family).config, replace(SMALL, batch_size=2), 8, "cuda")
    assert found.peak > found.weights > 0 and found.flops > 0


def test_gpus_have_fused_attention_and_smaller_masks_of_dropout():
    cpu, gpu = (estimate(BERT, replace(SMALL, method="full"), 128, device) for device in ("cpu", "cuda"))
    scores = 3 * 4 * 4 * 4 * 128 * 128  # bytes: layers, heads, texts, float32
    assert cpu.activations - gpu.activations > scores


def test_a_ledger_knows_what_there_is():
    owned = torch.empty(10, device="meta")
    with Ledger([owned]) as ledger:
        a = owned + 1
        view = a[2:]
        b = torch.cat([a, a])
        del a
        between = len(ledger.entries)
        c = torch.empty(3, device="meta")
        del view, c
    assert [size for _, size in ledger.entries] == [40, 80, 12, -40, -12]
    assert ledger.alive(between) == {ledger.number(b) - 1: 40, ledger.number(b): 80}
    assert ledger.alive(len(ledger.entries)) == {ledger.number(b): 80}
    assert ledger.fullest(0) == 3 and ledger.fullest(between) == between + 1
    assert size_of([b, b[1:], owned]) == 120


def test_attention_without_data_is_shaped_as_with_it():
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    for device in ("cpu", "cuda"):
        for dropout in (0.0, 0.1):
            for own in (None, mask):
                expected = F.scaled_dot_product_attention(q, k, k, own, dropout, enable_gqa=True)
                with KernelsOf(device):
                    arguments = (None if t is None else t.to("meta") for t in (q, k, k, own))
                    found = F.scaled_dot_product_attention(*arguments, dropout, enable_gqa=True)
                assert found.shape == expected.shape and found.dtype == expected.dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "none"}, "train: method must be 'sparse', 'full', 'head' or 'lora', got 'none'"),
        ({"kind": "hexagons"}, r"train: kind must be 'auto', .*, or several of these joined by \+, got 'hexagons'"),
        ({"kind": "elements"}, "estimate: kind must be units of several entries, or groups, got 'elements'"),
        ({"dtype": "float16"}, "train: dtype must be 'auto', 'float32' or 'bfloat16', got 'float16'"),
        ({"batch_size": 0}, "train: batch_size must be 1 or more, got 0"),
        ({"lora_rank": 0}, "train: lora_rank must be 1 or more, got 0"),
        ({"method": "lora", "lora_targets": "fifth"}, "train: lora_targets must be 'all-linear', .*, got 'fifth'"),
        ({"energy": "1.5"}, r"train: energy must be in \(0, 1\], got 1.5"),
        ({"method": "full", "energy": "0.9"}, "train: energy must be left out with the method full, got '0.9'"),
        ({"density": 0.0}, r"train: density must be in \(0, 1\], got 0.0"),
    ],
)
def test_bad_input(changes, message):
    if changes.get("method") == "lora":
        pytest.importorskip("peft")
    with pytest.raises(ValueError, match=f"^{message}$"):
        estimate(BERT, replace(SMALL, **changes), LENGTH)


def test_texts_are_as_long_as_the_model_has_positions():
    for length, expected in ((0, "at least 1"), (513, "at most the model's 512 positions")):
        with pytest.raises(ValueError, match=f"^estimate: length must be {expected}, got {length}$"):
            estimate(BERT, SMALL, length)


@pytest.mark.parametrize("share", [0.0, 1.01])
def test_an_active_share_is_a_part(share):
    with pytest.raises(ValueError, match=rf"^estimate: active_share must be in \(0, 1\], got {share}$"):
        estimate(BERT, replace(SMALL, energy="0.9"), LENGTH, active_share=share)


def test_no_delta_of_a_model_without_data():
    model = build_subject(LLAMA, replace(SMALL, dtype="float32"), "meta")
    handle = clm.patch(model, clm.Selection({}), dry=True)
    with pytest.raises(RuntimeError, match="patched in memory"):
        handle.delta()


def rows_of(result):
    """First cell -> the others, of all tables that were printed."""
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.split("│")] for line in result.output.splitlines() if "│" in line]
    return {cells[1]: cells[2:-1] for cells in lines if len(cells) > 3}


def test_the_command(tmp_path):
    LLAMA.save_pretrained(tmp_path)
    options = (
        "--batch-size 4 --length 32 --dtype bfloat16 --density 0.01 --gradient-checkpointing --lora-rank 3 --lora-targets value"
    )
    rows = rows_of(CliRunner().invoke(app, ["estimate", "--model", str(tmp_path), *options.split()]))
    shape = {"batch_size": 4, "dtype": "bfloat16", "gradient_checkpointing": True}
    found = estimate(LLAMA, TrainConfig(kind="groups", density=0.01, **shape), 32, "cuda")
    assert rows["peak"] == [f"{found.peak / 1e9:.3f}"] and rows["trained"] == [f"{found.trained:,}"]
    assert rows["sparse 0.01 groups, all"][0] == f"{found.peak / 1e9:.2f} GB" and rows["full"][2:] == ["8 GB"]
    assert math.isclose(sum(float(rows[part][0]) for part in ("weights", "activations", "workspace")), 0, abs_tol=0.1)
    pytest.importorskip("peft")
    assert {"LoRA r 3, query,value", "LoRA r 3, all-linear", "LoRA r 3, value"} <= rows.keys()


def test_the_command_says_that_a_share_is_assumed(tmp_path):
    LLAMA.save_pretrained(tmp_path)
    options = [
        "estimate",
        "--model",
        str(tmp_path),
        *["--batch-size", "4", "--length", "32", "--energy", "0.9", "--active-share", "0.4"],
    ]
    result = CliRunner().invoke(app, options)
    rows = rows_of(result)
    found = estimate(LLAMA, TrainConfig(batch_size=4, energy="0.9"), 32, "cuda", 0.4)
    assert rows["tokens in the backward"] == ["40% (assumed)"] and "TFLOPs at 40% of the tokens" in result.output
    assert rows["TFLOPs of a step"] == [f"{found.flops / 1e12:.3f}"]
    assert "assumed" not in CliRunner().invoke(app, options[:-4]).output


def test_what_fits_has_room_to_spare():
    from clm_kernels.cli.estimate import _fits

    table = _fits({"x": Estimate(int(22e9), 0, 0, 0, 0, 0, 1, 1), "y": Estimate(int(21e9), 0, 0, 0, 0, 0, 1, 1)}, "")
    assert list(table.columns[-1].cells) == ["48 GB", "24 GB"]


@pytest.mark.parametrize("further", [[], ["--cost", "0.4"]])
def test_a_share_that_nothing_assumes_is_refused(tmp_path, further):
    LLAMA.save_pretrained(tmp_path)
    result = CliRunner().invoke(app, ["estimate", "--model", str(tmp_path), "--active-share", "0.4", *further])
    assert result.exit_code == 2 and "active_share must be left out without energy" in result.output


def test_the_command_refuses_what_is_no_model(tmp_path):
    result = CliRunner().invoke(app, ["estimate", "--model", str(tmp_path)])
    assert result.exit_code == 2 and "a directory with a config.json" in result.stderr


def test_counting_keeps_nothing_alive():
    """Neither tensors nor the graph that holds their memory."""
    model, alive, outputs, storage = build("bert"), [], [], torch.UntypedStorage

    def watch(module, args, output):
        alive.append(sum(storage._new_with_weak_ptr(before) is not None for before in outputs))
        outputs.append(output.untyped_storage()._weak_ref())

    model.bert.encoder.layer[0].intermediate.register_forward_hook(watch)
    batches = [models.batch(model)] * 4
    gc.collect()
    gc.disable()
    try:
        assert flops(lambda: sensitivity(model, batches)) > 0
    finally:
        gc.enable()
    assert len(alive) == 4 and max(alive) <= 1  # the last batch's may be there yet
