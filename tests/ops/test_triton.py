"""What is Triton's own: resources of the compiled kernels, and how work is shared out. Results are tested in test_ops*.py."""

import json
import os
import subprocess
import sys

import pytest
import torch
from oracles import KINDS, assert_same_bits, entries_of, pick, place
from places import ROOT
from tolerances import assert_close

pytest.importorskip("triton")

from clm_kernels import Entries, ops
from clm_kernels.ops import triton as kernels
from clm_kernels.ops.registry import INTERPRETED
from clm_kernels.ops.triton.adamw import CHUNK, scalars
from clm_kernels.ops.triton.fisher import tile_sizes as sensitivity_tiles
from clm_kernels.ops.triton.gradients import share_of_tokens, tile_sizes

REGISTERS = {"sm_80": 255, "sm_90": 255, "gfx942": 256}
SHARED = {"sm_80": 99 << 10, "sm_90": 99 << 10, "gfx942": 64 << 10}  # bytes a program; sm_86 and sm_89 have no more than 99 KiB
KERNELS = {"sm_80": 54, "sm_90": 38, "gfx942": 38}


@pytest.mark.parametrize("target", REGISTERS)
def test_every_kernel_compiles_ahead_of_time_within_bounds(target):
    """Nothing spills, matrix kernels read no 16-bit number alone, and nothing is divided in 64 bits."""
    script = ROOT / "tests" / "helpers" / "compile_triton.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script, target], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    print(target, *kernels, sep="\n")
    assert len(kernels) == KERNELS[target]
    for kernel in kernels:
        assert kernel["spills"] == 0 and kernel["registers"] <= REGISTERS[target], kernel
        large = 128 << 10 if target == "sm_90" and "groups" in kernel["kernel"] else 0
        assert kernel["shared"] <= max(SHARED[target], large), kernel
        if target.startswith("gfx"):
            continue
        if kernel["kernel"].startswith(("weight_grad", "sensitivity", "input_grad")):
            assert kernel["narrow"] == 0 and (kernel["wide"] or kernel["kernel"].endswith("blocks 8 fp32")), kernel
        assert kernel["divisions"] == 0, kernel  # of 64 bits, a hundred instructions each


@pytest.mark.parametrize("tokens", [1, 63, 64, 1000, 8192])
@pytest.mark.parametrize("programs", [1, 32, 5000])
def test_shares_cover_the_tokens_in_whole_steps(tokens, programs):
    share = share_of_tokens(tokens, programs, 64, processors=132)
    assert share % 64 == 0 and share * -(-tokens // share) >= tokens
    assert -(-tokens // share) <= max(1, 2 * 132 // programs)


def test_tiles_are_what_the_matrix_units_take():
    for dtype in (torch.bfloat16, torch.float32):
        for shape in ((1, 1), (82, 4096), (10_000, 3)):
            assert all(size >= 16 and size & (size - 1) == 0 for size in tile_sizes(*shape, dtype))


def test_steps_divide_the_tiles_of_a_sensitivity():
    """Else a step would lie on both sides of the diagonal, or go beyond it."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for shape in ((1, 1), (17, 129), (4096, 4096)):
            tokens, units, step = sensitivity_tiles(*shape, dtype)
            assert tokens % step == 0 and step <= tokens
            assert all(size >= 16 and size & (size - 1) == 0 for size in (tokens, units, step))


def test_scalars_are_those_of_the_update():
    lr, beta1, beta2, eps, decay, step = 1e-3, 0.9, 0.99, 1e-8, 0.1, 3.0
    table = scalars(torch.tensor([[lr, beta1, beta2, eps, decay, step]], dtype=torch.float64), maximize=True)
    expected = [lr * decay, beta1, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**3), (1 - beta2**3) ** -0.5, eps, -1.0]
    torch.testing.assert_close(table, torch.tensor([expected], dtype=torch.float64))


MODULES = {
    name: sys.modules[f"clm_kernels.ops.triton.{name}"] for name in ("gradients", "embedding", "fisher", "sampled_product")
}
LAST = 8
interpreted = pytest.mark.skipif(not INTERPRETED, reason="replaces launches of Triton's interpreter, which a GPU does not need")


class Launches:
    """In place of a kernel: notes grids and arguments, and runs the `LAST` programs of each launch, or all."""

    def __init__(self, monkeypatch, name, kernel, all_of_them=False):
        self.kernel, self.grids, self.arguments, self.all = getattr(MODULES[name], kernel), [], [], all_of_them
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(MODULES[name], kernel, self)

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            self.grids.append(grid)
            self.arguments.append(args)
            if self.all:
                return self.kernel[grid](*args, **kwargs)
            builder = sys.modules["triton.runtime.interpreter"].interpreter_builder
            with self.monkeypatch.context() as patch:
                at, size = builder.set_grid_idx, builder.set_grid_dim
                patch.setattr(builder, "set_grid_dim", lambda *_: size(grid[0], 1, 1))
                patch.setattr(builder, "set_grid_idx", lambda x, *_: at(grid[0] - LAST + x, 0, 0))
                return self.kernel[(LAST,)](*args, **kwargs)

        return launch


@interpreted
def test_more_blocks_than_an_axis_of_a_grid_may_have(monkeypatch):
    """CUDA takes 2^31 - 1 programs on axis 0, 65,535 on the others. All would take the interpreter minutes: the last ones run."""
    launches = Launches(monkeypatch, "gradients", "outer_product")
    entries = Entries.of("blocks", range(1, 66_000), (300, 440), (1, 2))  # all but one: all would be a group
    dy, x = torch.randn(3, 300), torch.randn(3, 440)
    grad = kernels.weight_grad(dy, x, entries.index, entries.layout, torch.float32)
    assert launches.grids == [(65_999,)]
    assert_close(grad[-LAST:], pick(dy.double().T @ x.double(), entries)[-LAST:])


@interpreted
def test_every_launch_has_one_axis(monkeypatch):
    """Whose programs are all there: results are right where each of tiles, units, and shares of tokens are several."""
    product, segments, forms = (
        Launches(monkeypatch, name, kernel, all_of_them=True)
        for name, kernel in (
            ("gradients", "outer_product"), ("embedding", "sum_segments"), ("fisher", "quadratic_forms"),
        )
    )  # fmt: skip
    dy, x = torch.randn(512, 140) / 16, torch.randn(512, 150)
    dense = dy.double().T @ x.double()
    monkeypatch.setattr(MODULES["gradients"], "processors", lambda device: 64)
    for kind in ("rows", "columns", "blocks"):
        entries = entries_of(kind, (140, 150), "some", (70, 75))
        assert_close(kernels.weight_grad(dy, x, entries.index, entries.layout, torch.float32), pick(dense, entries))
    rows, ids = entries_of("rows", (9, 300), "all"), torch.randint(0, 9, (20,))
    wide = torch.randn(20, 300)
    expected = torch.zeros(9, 300, dtype=torch.float64).index_add_(0, ids, wide.double())
    assert_close(kernels.embedding_grad(wide, ids, rows.index, rows.layout, torch.float32), expected)
    kernels.sensitivity(torch.randn(2, 70, 140), torch.randn(2, 70, 130), "rows")
    grids = [*product.grids, *segments.grids, *forms.grids]
    assert len(grids) == 5 and all(len(grid) == 1 for grid in grids) and all(grid[0] > 4 for grid in grids)


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_operands_begin_where_16_bytes_can_be_read(monkeypatch, dtype):
    """Odd widths, gathered ones, views at odd places: what the matrix kernels get is aligned, and ends in zeros."""
    known = [
        Launches(monkeypatch, name, kernel, all_of_them=True)
        for name, kernel in (
            ("gradients", "outer_product"), ("sampled_product", "sampled_product"), ("fisher", "quadratic_forms"),
        )
    ]  # fmt: skip
    dy, x = torch.randn(13, 42).to(dtype)[:, 1:], torch.randn(13, 23).to(dtype)
    for kind in KINDS:
        entries = entries_of(kind, (41, 23), "some", (41, 1))
        grad = kernels.weight_grad(dy, x, entries.index, entries.layout, torch.float32)
        assert_close(grad, pick(dy.double().T @ x.double(), entries))
    kernels.sensitivity(dy[None], x[None], "columns")
    arguments = [args for launches in known for args in launches.arguments]
    assert len(arguments) == 5
    for args in arguments:
        for operand in args[:2]:
            assert operand.data_ptr() % 16 == 0 and all(stride % 16 == 0 for stride in operand.stride()[:-1])


@interpreted
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_adamw_finds_the_entries_of_every_chunk(kind, index_dtype):
    """Chunks begin within rows, blocks and the selected columns of a row; a dense weight gets each value where it belongs."""
    shape = (33, 70)
    entries = entries_of(kind, shape, "some", (11, 14))
    dense = torch.randn(shape)
    before, values = dense.clone(), pick(dense, entries)
    assert values.numel() > 2 * CHUNK and values.numel() % CHUNK
    none, grad = torch.empty(0), torch.randn(values.shape)
    moments = [torch.zeros_like(values) for _ in range(2)]
    settings = torch.tensor([[1e-1, 0.9, 0.999, 1e-8, 0.0, 1.0]], dtype=torch.float64)
    with ops.backend("triton"):
        ops.adamw_step_(
            [values], [grad], *([m] for m in moments), [none], [none], [none], [dense], [entries.index.to(index_dtype)],
            [*entries.layout], settings,
        )  # fmt: skip
    assert not torch.equal(values, pick(before, entries))
    assert_same_bits(dense, place(before, entries, values))
