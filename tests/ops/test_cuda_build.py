"""The CUDA kernels on a machine without a GPU: they build, import, refuse, and their index arithmetic and update are right."""

import ctypes
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from cuda_parameters import SHAPES, VARIANTS, check_step, grads, parameter, plan, settings, widened
from oracles import DTYPES, KINDS, assert_same_bits, entries_of
from places import ROOT

from clm_kernels.ops import addresses, reference
from clm_kernels.ops.layout import ROWS, Layout

try:
    from clm_kernels import _cuda
    from clm_kernels.ops import cuda
except ImportError:
    _cuda = None

NVCC = shutil.which("nvcc", path=os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")) or shutil.which("nvcc")
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")
needs_pybind = pytest.mark.skipif(importlib.util.find_spec("pybind11") is None, reason="setup.py needs pybind11")
needs_module = pytest.mark.skipif(_cuda is None, reason="clm_kernels._cuda is not built: CLM_KERNELS_CUDA=1 pip install -e .")
on_layouts = pytest.mark.parametrize("kind", [*KINDS, "dense"])
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
SELECTED = (ROWS, 4, 4, 0, 0, 0, 4, 2, 8)  # `fields.ENTRIES`


@needs_nvcc
@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_without_spills(architecture, tmp_path):
    kernels = {}
    for source in SOURCES:
        flags = ["-std=c++17", "-O3", f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-Xptxas=-v", "-cubin"]
        run = subprocess.run([NVCC, *flags, source, "-o", tmp_path / "out.cubin"], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        for entry in re.split(r"(?=Compiling entry function)", run.stdout + run.stderr)[1:]:
            registers = int(re.search(r"Used (\d+) registers", entry)[1])
            spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", entry)
            kernels[re.search(r"'(\w+)'", entry)[1]] = registers, sum(int(b) for pair in spills for b in pair), len(spills)
    assert len(kernels) >= 11  # adamw_step, 4 gather, 4 scatter, 2 masked_grad
    for name, (registers, spilled, seen) in kernels.items():
        assert seen and not spilled and registers <= 128, f"{name}: {registers} registers, {spilled} bytes spilled"


@needs_module
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(
    ("op", "call"),
    [
        ("gather", lambda: _cuda.gather(0, SELECTED, 4, 0, 0)),
        ("scatter_", lambda: _cuda.scatter(0, SELECTED, 4, 0, 0)),
        ("masked_grad_", lambda: _cuda.masked_grad((0, 0), (0, 0), SELECTED, 1.0, 0, 0)),
        ("adamw_step_", lambda: _plan([_parameter("rows")]).plan.run(0, 0, 0, (0, 0), (0, 0), (0, 0), 0)),
    ],
)
def test_a_call_without_a_gpu_names_op_and_error(op, call):
    with pytest.raises(RuntimeError, match=rf"^{op}: CUDA error: .*\(cudaError\w+\)"):
        call()


@needs_module
def test_the_module_needs_no_torch_and_no_cuda_library():
    script = "import importlib.util as u, sys; s = u.spec_from_file_location('_cuda', sys.argv[1]); m = u.module_from_spec(s);"
    script += "s.loader.exec_module(m); print('torch' in sys.modules, 'libcudart' in open('/proc/self/maps').read())"
    run = subprocess.run([sys.executable, "-S", "-c", script, _cuda.__file__], capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"], run.stderr


@needs_nvcc
@needs_pybind
@pytest.mark.parametrize(
    ("environment", "builds"),
    [({"CLM_KERNELS_CUDA": "0"}, False), ({"CLM_KERNELS_CUDA": "auto"}, True), ({"CLM_KERNELS_CUDA": "1"}, True), ({}, True)],
)
def test_setup_builds_where_it_should(environment, builds):
    inherited = {name: value for name, value in os.environ.items() if name != "CLM_KERNELS_CUDA"}
    script = (
        "import setuptools; setuptools.setup = lambda **given: print([ext.name for ext in given['ext_modules']]); import setup"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=inherited | environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert ("clm_kernels._cuda" in run.stdout) == builds


@needs_pybind
def test_setup_refuses_another_value():
    environment = os.environ | {"CLM_KERNELS_CUDA": "yes"}
    run = subprocess.run([sys.executable, "setup.py", "--name"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode and "CLM_KERNELS_CUDA must be 0, 1 or auto, got 'yes'" in run.stderr


@needs_module
@pytest.mark.parametrize("counts", [[0], [1], [1023, 1024, 1025], [0, 5, 0, 4097, 2**20 + 7], [1] * 300])
def test_chunks_cover_every_entry_once(counts):
    chunks = list(struct.iter_unpack("=qii", _cuda.chunks(counts)))
    for i, count in enumerate(counts):
        end = 0
        for first, _, length in (chunk for chunk in chunks if chunk[1] == i):
            assert first == end and 0 < length <= 1024 and first % 1024 == 0
            end += length
        assert end == count
    assert [chunk[1] for chunk in chunks] == sorted(chunk[1] for chunk in chunks)


@needs_module
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("which", ["none", "some", "all"])
@pytest.mark.parametrize(("shape", "block"), [*SHAPES.values(), ((7, 13), (1, 13)), ((1, 1), (1, 1))])
@pytest.mark.parametrize("kind", KINDS)
def test_dense_offsets(kind, shape, block, which, wide):
    entries = entries_of(kind, shape, which, block)
    index = entries.index.long() if wide else entries.index.int()
    offsets = _cuda.dense_offsets(addresses.entries(index, entries.layout, torch.empty(entries.compact_shape)))
    assert offsets == entries.layout.flat_index(index).flatten().tolist()


@needs_module
def test_dense_offsets_beyond_32_bits():
    index = torch.tensor([2**31 + 3])
    assert _cuda.dense_offsets(addresses.entries(index, Layout.of("rows", (2**32, 2)), torch.empty(1, 2))) == [
        2**32 + 6,
        2**32 + 7,
    ]


def _parameter(kind="rows", dtype=torch.float32, size="odd", **options):
    return parameter(kind, dtype, *SHAPES[size], **options)


def _plan(parameters, **options):
    return plan(cuda.AdamWPlan, parameters, **options)


@needs_module
@on_layouts
@on_dtypes
def test_accesses_are_wide_where_runs_and_addresses_allow(kind, dtype):
    def path(**options):
        return _plan([_parameter(kind, dtype, **options)]).plan.paths()[0]

    typed = "any" if dtype == torch.float64 else "typed"
    runs = kind in ("rows", "blocks", "dense") and typed == "typed"
    assert path(size="even") == ("vector" if runs else typed)
    assert path(size="odd") == ("vector" if runs and kind == "dense" else typed)
    assert path(size="even", offset=1) == typed
    assert path(size="even", moments=torch.float16) == "any"
    assert path(size="even", master=False) == (path(size="even") if dtype == torch.float32 else "any")


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """The update of the CUDA kernel as a function of the CPU."""
    library = tmp_path_factory.mktemp("host") / "adamw.so"
    flags = ["-std=c++17", "-arch=sm_90", "-cudart=static", "-shared", "-Xcompiler=-fPIC"]
    subprocess.run(
        [NVCC, *flags, ROOT / "tests" / "helpers" / "adamw_on_host.cu", "-o", library], check=True, capture_output=True
    )
    run = ctypes.CDLL(str(library)).adamw_step_on_host
    run.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 4, ctypes.c_bool, ctypes.c_bool]
    run.restype = ctypes.c_int64

    def step(made, grads, settings, scale=None, clip=None, amsgrad=False, maximize=False, blocks=7):
        chunks = len(made.plan.chunks())
        scalars = [None if s is None else s.data_ptr() for s in (scale, clip)]
        table = torch.tensor(addresses.arrays(grads))
        return run(made.table.data_ptr(), chunks, blocks, table.data_ptr(), settings.data_ptr(), *scalars, amsgrad, maximize)

    return step


@needs_nvcc
@needs_module
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SHAPES)
@on_dtypes
def test_the_update_equals_the_reference(on_host, dtype, size, variant):
    options = VARIANTS[variant]
    amsgrad, maximize = options.get("amsgrad", False), variant == "all options"
    mine = [_parameter(kind, dtype, size, **options) for kind in (*KINDS, "dense")]
    truth = widened(mine)
    plans = _plan(mine, amsgrad=amsgrad, maximize=maximize), plan(reference.AdamWPlan, truth, amsgrad, maximize)
    for step in range(1, 4):
        table, gradients, before = (
            settings(mine, step),
            grads(mine, options.get("offset", 0)),
            [t.denses.clone() for t, _ in mine],
        )
        original = [grad.clone() for grad in gradients]
        scale, clip = (torch.tensor(4.0), torch.tensor(0.5)) if step == 2 else (None, None)
        on_host(plans[0], gradients, table, scale, clip, amsgrad, maximize)
        plans[1]([grad.to(t.values.dtype) * (clip or 1.0) for grad, (t, _) in zip(gradients, truth, strict=True)], table)
        check_step(mine, truth, before)
        for grad, was in zip(gradients, original, strict=True):
            assert_same_bits(grad, was / (scale or 1.0))


@needs_nvcc
@needs_module
@pytest.mark.parametrize("blocks", [1, 2, 7, 10_000])
def test_a_thread_block_takes_a_run_of_chunks(on_host, blocks):
    """However many there are, the result is the same, and each turns to another parameter no more often than it must."""
    mine, twin = ([_parameter(kind, size=size) for kind in (*KINDS, "dense") for size in ("long", "odd")] for _ in range(2))
    for (tensors, _), (copies, _) in zip(mine, twin, strict=True):
        for tensor, copy in zip(tensors, copies, strict=True):
            copy.copy_(tensor)
    gradients, table, plans = grads(mine), settings(mine), (_plan(mine), _plan(twin))
    chunks = plans[0].plan.chunks()
    turns = on_host(plans[0], gradients, table, blocks=blocks)
    on_host(plans[1], gradients, table, blocks=len(chunks))
    assert len(mine) <= turns <= len(mine) + blocks - 1 and turns <= len(chunks)
    for (tensors, _), (expected, _) in zip(mine, twin, strict=True):
        for tensor, other in zip(tensors, expected, strict=True):
            assert_same_bits(tensor, other)
