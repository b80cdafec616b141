"""What is Triton's own: resources of the compiled kernels, and how work is shared out. Results are tested in test_ops*.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from clm_kernels.ops.triton.adamw import scalars
from clm_kernels.ops.triton.sensitivity import tile_sizes as sensitivity_tiles
from clm_kernels.ops.triton.weight_grad import share_of_tokens, tile_sizes

REGISTERS = {"sm_80": 255, "sm_90": 255, "gfx942": 256}
KERNELS = 21


@pytest.mark.parametrize("target", REGISTERS)
def test_every_kernel_compiles_ahead_of_time_within_bounds(target):
    """Nothing spills in a loop; AdamW's two words are a stack frame of its divisions."""
    script = Path(__file__).parent / "compile_triton.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script, target], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    print(target, *kernels, sep="\n")
    assert len(kernels) == KERNELS
    for kernel in kernels:
        allowed = 8 if kernel["kernel"].startswith("adamw") else 0
        assert kernel["spills"] <= allowed and kernel["registers"] <= REGISTERS[target], kernel
        shared = 128 if target == "sm_90" and "groups" in kernel["kernel"] else 64  # KiB; what every target has, gfx942 no more
        assert kernel["shared"] <= shared << 10, kernel


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
