"""What the C++ kernels have of their own: instruction sets, threads, blocking, raw pointers. Semantics: test_ops.py."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from made import Made
from oracles import DTYPES, KINDS, assert_same_bits, entries_of, framed, pick, place
from tolerances import assert_close

import clm_kernels
from clm_kernels import Entries, ops
from clm_kernels.ops import matmul, reference
from clm_kernels.ops.parameters import Parameters

if reason := ops.why_not("cpu"):
    pytest.skip(reason, allow_module_level=True)

from clm_kernels import _cpu
from clm_kernels.ops import cpu

LOW = (torch.bfloat16, torch.float16)
BEST = _cpu.instructions()
SETS = ("baseline", "avx2", "avx512")
SETS = SETS[: SETS.index(BEST) + 1]
# Around the kernels' own sizes: 4, 8 and 16 lanes, tiles of 48, panels of 192, groups of 128 and blocks of 512 entries.
SHAPES = [
    ((1, 1), (1, 1)),
    ((5, 3), (1, 3)),
    ((9, 193), (9, 193)),
    ((130, 47), (65, 47)),
    ((17, 400), (17, 50)),
    ((257, 31), (257, 1)),
    ((260, 12), (260, 3)),
]
TOKENS = (0, 1, 15, 128, 257)

on_kinds = pytest.mark.parametrize("kind", KINDS)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(params=SETS)
def instructions(request):
    _cpu.set_instructions(request.param)
    yield request.param
    _cpu.set_instructions("auto")


@pytest.fixture
def results_framed(monkeypatch):
    """Every result that a kernel allocates is NaN inside a buffer of sentinels, which must still be there at the end."""
    checks, new_empty = [], torch.Tensor.new_empty

    def make(like, *args, **kwargs):
        view, check = framed(new_empty(like, *args, **kwargs).fill_(float("nan")))
        checks.append(check)
        return view

    monkeypatch.setattr(torch.Tensor, "new_empty", make)
    yield
    monkeypatch.undo()
    for check in checks:
        check()
    assert checks


def operands(shape, tokens, dtype):
    """dy and x, of order 1 after the sum over tokens, at odd addresses and with gaps between rows."""
    scale = max(1, tokens) ** -0.5
    made = (torch.randn(tokens, shape[0] + 3) * scale).to(dtype)[:, 2:-1], torch.randn(tokens, shape[1] + 3).to(dtype)[:, 1:-2]
    assert not made[0].is_contiguous() or tokens < 2
    return made


def with_long_index(entries):
    return entries.index.long(), entries.layout


@on_kinds
@on_dtypes
def test_weight_grad(instructions, results_framed, kind, dtype):
    for shape, block in SHAPES:
        for tokens in TOKENS:
            dy, x = operands(shape, tokens, dtype)
            dense = dy.double().T @ x.double()
            for which in ("none", "some", "all"):
                entries = entries_of(kind, shape, which, block)
                expected = pick(dense, entries)
                for result in {dtype, torch.float32, torch.float16}:
                    grad = cpu.weight_grad(dy, x, entries.index, entries.layout, result)
                    assert grad.dtype == result
                    assert_close(grad, expected, torch.bfloat16 if {dtype, result} == set(LOW) else None)
                assert_same_bits(cpu.weight_grad(dy, x, *with_long_index(entries), result), grad)


@on_dtypes
def test_sliced_operands_give_the_same_bits(instructions, dtype):
    dy, x = operands((65, 130), 129, dtype)
    rows, columns = entries_of("rows", (65, 130), "some"), entries_of("columns", (65, 130), "some")
    for entries, sliced in ((rows, (dy[:, rows.index], x)), (columns, (dy, x[:, columns.index]))):
        whole = cpu.weight_grad(dy, x, entries.index, entries.layout, dtype)
        assert_same_bits(cpu.weight_grad(*sliced, entries.index, entries.layout, dtype), whole)


@pytest.mark.parametrize("count", [1, 3, 40, 2000])
def test_few_elements_use_few_columns(instructions, results_framed, count):
    """Below a third of the columns only those in use are transposed."""
    shape = (40, 300)
    dy, x = operands(shape, 77, torch.float32)
    entries = Entries.of("elements", torch.randperm(40 * 300)[:count], shape)
    assert_close(cpu.weight_grad(dy, x, entries.index, entries.layout, torch.float32), pick(dy.double().T @ x.double(), entries))


@on_dtypes
def test_embedding_grad(instructions, results_framed, dtype):
    for width in (1, 127, 128, 129):
        for tokens in (0, 1, 300):
            dy = (torch.randn(tokens, width + 2) * max(1, tokens) ** -0.5).to(dtype)[:, 1:-1]
            ids = torch.randint(-1, 13, (tokens,))
            dense = (ids[:, None] == torch.arange(11)).double().T @ dy.double()
            for which in ("none", "some", "all"):
                entries = entries_of("rows", (11, width), which)
                grad = cpu.embedding_grad(dy, ids, entries.index, entries.layout, dtype)
                assert_close(grad, pick(dense, entries))
                assert_same_bits(cpu.embedding_grad(dy, ids.int(), *with_long_index(entries), dtype), grad)


@on_kinds
@on_dtypes
def test_copies(results_framed, kind, dtype):
    for shape, block in SHAPES:
        original, _ = framed(torch.randn(shape).to(dtype))
        for which in ("none", "some", "all"):
            entries = entries_of(kind, shape, which, block)
            for index, layout in ((entries.index, entries.layout), with_long_index(entries)):
                assert_same_bits(cpu.gather(original, index, layout), pick(original, entries))
                dense, check = framed(original)
                values = torch.randn(entries.compact_shape).to(dtype)
                cpu.scatter_(dense, index, layout, values)
                assert_same_bits(dense, place(original, entries, values))
                check()


@on_kinds
@pytest.mark.parametrize("dense_dtype", DTYPES)
@on_dtypes
def test_masked_grad(instructions, kind, dense_dtype, dtype):
    for shape, block in SHAPES[2:]:
        dense_grad = torch.randn(shape).to(dense_dtype)
        entries = entries_of(kind, shape, "some", block)
        grad, check = framed(torch.randn(entries.compact_shape).to(dtype))
        expected = grad.double() + 0.5 * pick(dense_grad.double(), entries)
        for index, layout in ((entries.index, entries.layout), with_long_index(entries)):
            copy = grad.clone()
            assert cpu.masked_grad_(copy, dense_grad, index, layout, 0.5).item() == 0
        cpu.masked_grad_(grad, dense_grad, entries.index, entries.layout, 0.5)
        assert_same_bits(grad, copy)
        assert_close(grad, expected)
        check()
        pick_last = entries.flat_index().flatten()[-1]
        dense_grad.view(-1)[pick_last] = float("inf")
        assert cpu.masked_grad_(grad, dense_grad, entries.index, entries.layout, 0.5).item() == 1


def half_patterns(dtype):
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


def same_numbers(a, b):
    """The same bits, or NaN on both sides: which NaN is not promised."""
    assert_same_bits(a.nan_to_num(1.0, float("inf"), float("-inf")), b.nan_to_num(1.0, float("inf"), float("-inf")))
    assert torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("dtype", LOW)
def test_every_half_is_read_exactly(instructions, dtype):
    halves = half_patterns(dtype)[None]
    grad, everything = torch.zeros(halves.shape), Entries.everything("rows", tuple(halves.shape))
    cpu.masked_grad_(grad, halves, everything.index, everything.layout, 1.0)
    same_numbers(grad, halves.float() + 0.0)  # 0 + -0 is 0


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", LOW)
def test_halves_are_rounded_as_torch_does(instructions, dtype, wide):
    """Every half, the midpoints between neighbours, and the floats right beside both."""
    halves = half_patterns(dtype).float()
    finite = halves[halves.isfinite()].sort().values
    middle = finite[:-1] / 2 + finite[1:] / 2
    inputs = torch.cat([halves, middle, middle.nextafter(torch.tensor(torch.inf)), middle.nextafter(torch.tensor(-torch.inf)),
                        torch.tensor([65519.996, 65520.0, 3.4e38, -3.4e38, 1e-8, -1e-45, 2.0**-25])])[None].to(wide)  # fmt: skip
    everything = Entries.everything("rows", (1, inputs.shape[1]))
    grad = cpu.weight_grad(torch.ones(1, 1, dtype=wide), inputs, everything.index, everything.layout, dtype)
    same_numbers(grad, (inputs + 0.0).to(dtype))


def adamw_arguments(kind, dtype, size, grad_dtype, moment_dtype, master):
    """One parameter's arguments, each tensor in a frame; and the frames' checks."""
    shape, block = {"dense": ((size,), None), "rows": ((5, size), None), "columns": ((size, 5), None),
                    "blocks": ((6, size), (2, size)), "elements": ((5, size), None)}[kind]  # fmt: skip
    entries = None if kind == "dense" else entries_of(kind, shape, "some", block)
    dense = torch.randn(shape).to(dtype)
    compact = dense if entries is None else pick(dense, entries)
    none = torch.empty(0)
    tensors = [
        compact, torch.randn(compact.shape).to(grad_dtype), torch.randn(compact.shape).to(moment_dtype),
        torch.rand(compact.shape).to(moment_dtype), torch.rand(compact.shape).to(moment_dtype),
        compact.float() if master else none, torch.randn(compact.shape).to(dtype), none if entries is None else dense,
    ]  # fmt: skip
    frames = [framed(tensor) if tensor.numel() else (tensor, lambda: None) for tensor in tensors]
    index, layout = (none.int(), (4, 0, 0, 0, 0)) if entries is None else (entries.index, entries.layout)
    return [*([view] for view, _ in frames), [index], list(layout)], [check for _, check in frames]


def adamw(backend, arguments, amsgrad=False, maximize=False, **options):
    """One step of an implementation with what `adamw_arguments` makes."""
    values, grads, *others = arguments
    plan = backend.AdamWPlan(Parameters(values, *others, amsgrad, maximize))
    plan(grads, torch.tensor([[1e-2, 0.9, 0.99, 1e-8, 0.1, 3.0]], dtype=torch.float64), **options)


@pytest.mark.parametrize("kind", [*KINDS, "dense"])
@on_dtypes
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adamw_equals_the_reference(instructions, kind, dtype, amsgrad):
    """Around blocks of 256 and chunks of 4096 entries, with every dtype of gradients and moments."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    cases = [(size, dtype, wide, dtype in LOW) for size in (1, 255, 256, 257, 4099)]
    cases += [(300, grad, moment, False) for grad in DTYPES for moment in {wide, dtype}]
    for size, grad_dtype, moment_dtype, master in cases:
        arguments, checks = adamw_arguments(kind, dtype, size, grad_dtype, moment_dtype, master)
        copies = [[t.clone() for t in tensors] if isinstance(tensors[0], torch.Tensor) else tensors for tensors in arguments]
        options = {"amsgrad": amsgrad, "maximize": size % 2 == 0, "grad_scale": torch.tensor(2.0)}
        adamw(cpu, arguments, **options)
        adamw(reference, copies, **options)
        for check in checks:
            check()
        for ours, theirs in zip(arguments[:8], copies, strict=False):
            # A rounding of the float32 update apart may be a unit of the lower precision apart.
            rtol, atol = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-12, 1e-12)}.get(ours[0].dtype, (2**-7, 1e-3))
            torch.testing.assert_close(ours[0], theirs[0], rtol=rtol, atol=atol)
        if kind != "dense":
            entries_at = arguments[8][0], arguments[9]
            assert_same_bits(cpu.gather(arguments[7][0], *entries_at), arguments[0][0])


def every_result(dtype):
    """All that the kernels compute from one seed, in sizes that are shared out among threads."""
    torch.manual_seed(3)
    shape, block = (96, 1040), (48, 16)
    dy, x = operands(shape, 500, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    results = []
    for kind, b in ((k, block) for k in KINDS):
        entries = entries_of(kind, shape, "some", b)
        results.append(cpu.weight_grad(dy, x, entries.index, entries.layout, wide))
        dense, grad = torch.randn(shape).to(dtype), torch.zeros(entries.compact_shape, dtype=dtype)
        found = cpu.masked_grad_(grad, dense, entries.index, entries.layout, 2.0)
        gathered = cpu.gather(dense, entries.index, entries.layout)
        cpu.scatter_(dense, entries.index, entries.layout, grad)
        results += [found, grad, gathered, dense]
    small = entries_of("blocks", shape, "some", (4, 4))
    results.append(cpu.weight_grad(dy, x, small.index, small.layout, wide))
    rows = entries_of("rows", (40, 1040), "some")
    results.append(cpu.embedding_grad(x, torch.randint(0, 40, (500,)), rows.index, rows.layout, wide))
    for kind in (*KINDS, "dense"):
        arguments, _ = adamw_arguments(kind, dtype, 20_000, dtype, wide, dtype in LOW)
        adamw(cpu, arguments, amsgrad=True)
        results += [tensors[0] for tensors in arguments[:8]]
    return results


@on_dtypes
def test_the_same_bits_for_any_number_of_threads(instructions, dtype):
    expected = every_result(dtype)
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for result, first in zip(every_result(dtype), expected, strict=True):
                assert_same_bits(result, first)
    finally:
        torch.set_num_threads(1)


def test_calls_from_several_python_threads():
    """The GIL is released, and each thread has buffers of its own."""
    jobs = []
    for i in range(24):
        shape, tokens = (64 + i, 300 - 7 * i), 100 + 30 * i
        entries = entries_of(KINDS[i % 4], shape, "some", (shape[0], 1))
        jobs.append((*operands(shape, tokens, DTYPES[i // 6]), entries.index, entries.layout, torch.float32))
    expected = [cpu.weight_grad(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for result, first in zip(pool.map(lambda job: cpu.weight_grad(*job), jobs), expected, strict=True):
                assert_same_bits(result, first)


@pytest.mark.skipif(not _cpu.bfloat16_products, reason="needs a processor with AVX512-BF16")
@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_bfloat16_products_by_torch(kind):
    """Where `auto` has torch multiply in bfloat16, sums are float32, for strided and for sliced operands alike."""
    dy, x = operands((65, 130), 129, torch.bfloat16)
    entries = entries_of(kind, (65, 130), "some")
    with Made() as made:
        grad = matmul.weight_grad(dy, x, entries.index, entries.layout, torch.bfloat16)
    assert grad.is_contiguous() and made.products[0][0].dtype == torch.bfloat16
    assert_close(grad, pick(dy.double().T @ x.double(), entries))


@on_kinds
def test_writes_between_forward_and_backward_are_refused(kind):
    shape = (8, 6)
    entries = entries_of(kind, shape, "some", (2, 3))
    index, layout = entries.index, entries.layout
    values = torch.zeros(entries.compact_shape)
    none = [torch.empty(0)]
    moments = [[torch.zeros_like(values)] for _ in range(2)]
    for write in (
        lambda dense: cpu.scatter_(dense, index, layout, values),
        lambda dense: adamw(cpu, [[values.clone()], [values], *moments, none, none, none, [dense], [index], list(layout)]),
        lambda dense: cpu.masked_grad_(dense, torch.ones(shape), *with_long_index(Entries.everything("rows", shape)), 1.0),
    ):
        dense, x = torch.randn(shape), torch.randn(5, 6, requires_grad=True)
        y = x @ dense.T
        write(dense)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_a_missing_build_says_how_to_get_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("clm_kernels.ops.cpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "clm_kernels._cpu", None)
    monkeypatch.delattr(clm_kernels, "_cpu")
    with pytest.raises(ImportError, match="not built: install a C\\+\\+ compiler and run `pip install"):
        importlib.import_module("clm_kernels.ops.cpu")


def test_unknown_instructions_are_refused():
    with pytest.raises(ValueError, match=f"up to {BEST}, got sse9"):
        _cpu.set_instructions("sse9")
    assert _cpu.instructions() == BEST
