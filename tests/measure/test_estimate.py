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
from clm_kernels.measure.estimate import Estimate, Work, batch, estimate, prepare
from clm_kernels.measure.estimate import build as build_work
from clm_kernels.measure.estimate.kernels import KernelsOf
from clm_kernels.measure.estimate.ledger import Ledger, size_of
from clm_kernels.measure.estimate.operations import flops
from clm_kernels.measure.profiling import session as profiling
from clm_kernels.selecting.scores import sensitivity

SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 500}
BERT = tf.BertConfig(**SIZE, num_labels=5)
LLAMA = tf.LlamaConfig(**SIZE, num_key_value_heads=2, num_labels=5, pad_token_id=0)
SMALL = Work(batch=4, length=32, density=0.05)


def measured(config, work):
    model, optimizer = prepare(build_work(config, work, "cpu"), work)
    with profiling(model, optimizer, steps=1, warm_up=2) as profiled:
        for _ in range(4):
            model(**batch(model, work, "cpu")).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return profiled.report


CASES = {
    "full": (BERT, {"method": "full"}),
    "full, bf16, checkpointing": (LLAMA, {"method": "full", "precision": "bf16", "checkpointing": True}),
    "head": (BERT, {"method": "head", "batch": 16}),
    "columns, tokens": (BERT, {"task": "token"}),
    "columns, bf16": (LLAMA, {"precision": "bf16"}),
    "columns, bf16, checkpointing": (LLAMA, {"precision": "bf16", "checkpointing": True}),
    "rows, upper half": (LLAMA, {"kind": "rows", "layers": "upper half"}),
    "rows, upper half, checkpointing": (BERT, {"kind": "rows", "layers": "upper half", "checkpointing": True}),
    "heads and neurons": (BERT, {"kind": "heads+neurons", "density": 0.2}),
    "dealt groups": (BERT, {"kind": "groups", "density": 0.125}),
    "blocks and embeddings": (BERT, {"kind": "blocks+embeddings", "density": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_within_10_percent_of_what_the_allocator_says(case):
    config, changes = CASES[case]
    work = replace(SMALL, **changes)
    found, report = estimate(config, work), measured(config, work)
    assert found.weights == report.bytes["weights"]
    assert found.optimizer_state + found.masters == pytest.approx(report.bytes["optimizer state"], rel=0.02)
    assert found.peak == pytest.approx(report.peak, rel=0.1)


@pytest.mark.parametrize("changes", [{"kind": kind, "density": 0.3} for kind in ("rows", "columns", "blocks", "groups")], ids=str)
def test_counted_as_if_drawn(changes, monkeypatch):
    """On the meta device nothing is drawn, and every byte is what it is for the indices that a draw gives."""
    work, asked = replace(SMALL, **changes), []

    def drawn(*args, dry, **options):
        asked.append(dry)
        return random_selection(*args, **options)

    dry = estimate(LLAMA, work)
    monkeypatch.setattr(training, "random_selection", drawn)
    assert estimate(LLAMA, work) == dry and asked == [True]


def test_lora_too():
    pytest.importorskip("peft")
    works = {
        targets: replace(SMALL, method="lora", targets=targets, precision="bf16") for targets in ("query,value", "all-linear")
    }
    found = {targets: estimate(LLAMA, work) for targets, work in works.items()}
    assert found["all-linear"].peak == pytest.approx(measured(LLAMA, works["all-linear"]).peak, rel=0.1)
    qv = LLAMA.num_hidden_layers * 12 * (2 * 64 + 64 + 32) + 5 * 64  # query of 64 features, value of 32, and the head
    assert found["query,value"].trained == qv < found["all-linear"].trained


def test_full_training_in_numbers():
    """Weights, two moments and, at the end of the backward pass, a gradient: four times the parameters, and what is on its way."""
    found = estimate(BERT, replace(SMALL, method="full", batch=1, length=4))
    parameters = sum(p.numel() for p in build_work(BERT, SMALL, "meta").parameters())
    assert found.trained == parameters
    assert found.weights == 4 * parameters + 2 * 8 * BERT.max_position_embeddings  # two buffers of ids
    assert found.optimizer_state == pytest.approx(8 * parameters, rel=0.01) and found.masters == 0
    assert 0.9 * 4 * parameters < found.gradients <= 4 * parameters


def test_masters_are_float32_values_of_what_is_trained():
    found = estimate(LLAMA, replace(SMALL, precision="bf16"))
    assert found.masters == 4 * found.trained
    assert found.optimizer_state == pytest.approx(8 * found.trained, rel=0.05)
    assert estimate(LLAMA, SMALL).masters == 0


def test_columns_keep_less_for_the_backward_pass_than_rows_do():
    columns, rows = (estimate(LLAMA, replace(SMALL, kind=kind, batch=16)) for kind in ("columns", "rows"))
    assert columns.activations < 0.8 * rows.activations


def test_checkpointing_trades_memory_for_operations():
    off, on = (estimate(LLAMA, replace(SMALL, method="full", batch=16, checkpointing=c)) for c in (False, True))
    assert on.activations < 0.3 * off.activations and on.peak < off.peak
    assert on.flops > 1.2 * off.flops


def test_operations_are_those_of_the_cost_model():
    from clm_kernels.selecting.budget.cost import step_cost

    model = build_work(LLAMA, SMALL, "cpu")
    full = step_cost(model, batch=4, length=32)
    found = estimate(LLAMA, replace(SMALL, method="full"))
    assert found.flops == pytest.approx(full.forward + full.backward, rel=0.05)
    assert estimate(LLAMA, SMALL).flops < 0.8 * found.flops


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_families(family):
    found = estimate(build(family).config, Work(batch=2, length=8), "cuda")
    assert found.peak > found.weights > 0 and found.flops > 0


def test_gpus_have_fused_attention_and_smaller_masks_of_dropout():
    cpu, gpu = (estimate(BERT, replace(SMALL, method="full", length=128), device) for device in ("cpu", "cuda"))
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
        ({"method": "none"}, "estimate: method must be one of sparse, lora, full, head, got 'none'"),
        ({"kind": "hexagons"}, r"estimate: kind must be rows, .*, or several joined by \+, or groups, got 'hexagons'"),
        ({"precision": "fp16"}, "estimate: precision must be one of float32, bf16, got 'fp16'"),
        ({"batch": 0}, "estimate: batch must be at least 1, got 0"),
        ({"density": 0.0}, r"estimate: density must be in \(0, 1\], got 0.0"),
        ({"length": 513}, "estimate: length must be at most the model's 512 positions, got 513"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        estimate(BERT, replace(SMALL, **changes))


def test_no_delta_of_a_model_without_data():
    model = build_work(LLAMA, SMALL, "meta")
    handle = clm.patch(model, clm.Selection({}), dry=True)
    with pytest.raises(RuntimeError, match="patched in memory"):
        handle.delta()


def test_the_command(tmp_path):
    LLAMA.save_pretrained(tmp_path)
    options = [
        "--model",
        str(tmp_path),
        "--batch",
        "4",
        "--length",
        "32",
        "--precision",
        "bf16",
        "--density",
        "0.01",
        "--checkpointing",
    ]
    result = CliRunner().invoke(app, ["estimate", *options])
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.split("│")] for line in result.output.splitlines() if "│" in line]
    rows = {cells[1]: cells[2:-1] for cells in lines if len(cells) > 3}
    found = estimate(LLAMA, Work(batch=4, length=32, precision="bf16", density=0.01, kind="groups", checkpointing=True), "cuda")
    assert rows["peak"] == [f"{found.peak / 1e9:.3f}"] and rows["trained"] == [f"{found.trained:,}"]
    assert rows["sparse 0.01 groups, all"][0] == f"{found.peak / 1e9:.2f} GB" and rows["full"][2:] == ["yes"] * 6
    assert math.isclose(sum(float(rows[part][0]) for part in ("weights", "activations", "workspace")), 0, abs_tol=0.1)


def test_what_fits_has_room_to_spare():
    from clm_kernels.cli.estimate import SIZES, _fits

    table = _fits({"x": Estimate(int(22e9), 0, 0, 0, 0, 0, 1, 1), "y": Estimate(int(21e9), 0, 0, 0, 0, 0, 1, 1)}, "")
    columns = [list(column.cells) for column in table.columns[3:]]
    assert columns[SIZES.index(24)] == ["-", "yes"] and columns[SIZES.index(16)] == ["-", "-"]


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
