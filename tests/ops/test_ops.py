"""Gradients and copies of selected entries, on every implementation, against dense tensors. AdamW: test_ops_adamw.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import DTYPES, KINDS, assert_same_bits, entries_of, framed, pick, place, spread
from tolerances import assert_close

from clm_kernels import Entries, ops
from clm_kernels.ops import reference

LOW = (torch.bfloat16, torch.float16)
WHICH = ("none", "some", "all")
CASES = [  # shape of the weight, of a block, tokens: 0, 1, primes, powers of two and their neighbours
    ((0, 5), (1, 5), 3),
    ((5, 0), (5, 1), 3),
    ((1, 1), (1, 1), 1),
    ((7, 13), (7, 1), 0),
    ((15, 17), (5, 17), 31),
    ((16, 31), (4, 31), 1),
    ((33, 64), (11, 16), 65),
    ((129, 127), (43, 127), 37),
]

on_kinds = pytest.mark.parametrize("kind", KINDS)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def operands(shape, tokens, dtype):
    """dy and x, of order 1, so that a sum over tokens is too."""
    scale = max(1, tokens) ** -0.5
    return (torch.randn(tokens, shape[0]) * scale).to(dtype), torch.randn(tokens, shape[1]).to(dtype)


def dense_gradient(dy, x):
    return dy.double().T @ x.double()


class TestWeightGrad:
    @on_kinds
    @on_dtypes
    def test_equals_the_dense_gradient(self, backend, poison, kind, dtype):
        for shape, block, tokens in CASES:
            dy, x = operands(shape, tokens, dtype)
            for which in WHICH:
                entries = entries_of(kind, shape, which, block)
                grad = ops.weight_grad(dy, x, entries)
                assert grad.dtype == dtype and grad.shape == entries.compact_shape and grad.is_contiguous()
                assert_close(grad, pick(dense_gradient(dy, x), entries))

    @on_kinds
    def test_takes_any_strides_and_offsets(self, backend, kind):
        shape = (16, 31)
        dy, x = operands(shape, 33, torch.float32)
        entries = entries_of(kind, shape, "some", (4, 31))
        expected = ops.weight_grad(dy, x, entries)
        for change in (spread, lambda t: t.T.contiguous().T, lambda t: framed(t)[0], lambda t: t.flip(0).contiguous().flip(0)):
            assert_close(ops.weight_grad(change(dy), change(x), entries), expected)

    @pytest.mark.parametrize("dtype", LOW)
    @on_kinds
    def test_a_wider_result_is_not_rounded(self, backend, kind, dtype):
        dy, x = operands((33, 64), 257, dtype)
        entries = entries_of(kind, (33, 64), "some", (11, 16))
        grad = ops.weight_grad(dy, x, entries, torch.float32)
        assert grad.dtype == torch.float32
        assert_close(grad, pick(dense_gradient(dy, x), entries))

    @pytest.mark.parametrize("dtype", LOW)
    def test_a_narrower_result_is_rounded_once(self, backend, dtype):
        dy, x = operands((33, 64), 65, torch.float32)
        entries = entries_of("rows", (33, 64), "some")
        assert_close(ops.weight_grad(dy, x, entries, dtype), pick(dense_gradient(dy, x), entries))

    @on_dtypes
    @pytest.mark.parametrize("which", WHICH)
    def test_operands_may_be_sliced_already(self, backend, dtype, which):
        dy, x = operands((15, 17), 31, dtype)
        rows, columns = entries_of("rows", (15, 17), which), entries_of("columns", (15, 17), which)
        assert_close(ops.weight_grad(dy[:, rows.index], x, rows), pick(dense_gradient(dy, x), rows))
        assert_close(ops.weight_grad(dy, x[:, columns.index], columns), pick(dense_gradient(dy, x), columns))

    @on_kinds
    def test_inf_and_nan_reach_their_own_entries_only(self, backend, kind):
        shape = (8, 12)
        dy, x = operands(shape, 9, torch.float32)
        dy[3, 2], x[5, 7] = float("nan"), float("inf")
        entries = entries_of(kind, shape, "all", (2, 3))
        expected = pick(dense_gradient(dy, x), entries)
        assert torch.equal(ops.weight_grad(dy, x, entries).isfinite(), expected.isfinite())


class TestEmbeddingGrad:
    @on_dtypes
    @pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
    def test_equals_the_dense_gradient(self, backend, poison, dtype, id_dtype):
        for shape, _, tokens in CASES:
            dy = (torch.randn(tokens, shape[1]) * max(1, tokens) ** -0.5).to(dtype)
            ids = torch.randint(-1, max(1, shape[0]), (tokens,)).to(id_dtype)
            if shape[0] == 0:
                ids.fill_(-1)
            one_hot = (ids[:, None] == torch.arange(shape[0])).double()  # (T, V); a negative id adds nothing
            for which in WHICH:
                entries = entries_of("rows", shape, which)
                grad = ops.embedding_grad(dy, ids, entries)
                assert grad.dtype == dtype and grad.shape == entries.compact_shape
                assert_close(grad, pick(one_hot.T @ dy.double(), entries))

    def test_takes_any_strides_and_offsets(self, backend):
        entries = entries_of("rows", (9, 12), "some")
        dy, ids = torch.randn(31, 12), torch.randint(0, 9, (31,))
        expected = ops.embedding_grad(dy, ids, entries)
        assert_same_bits(ops.embedding_grad(spread(dy), ids.repeat_interleave(2)[::2], entries), expected)
        assert_same_bits(ops.embedding_grad(dy.T.contiguous().T, ids, entries), expected)

    def test_ids_beyond_the_selection_add_nothing(self, backend):
        entries = Entries.of("rows", [2, 5], (9, 3)).to(torch.get_default_device())
        grad = ops.embedding_grad(torch.ones(5, 3), torch.tensor([-100, 0, 5, 8, 5]), entries)
        assert grad.tolist() == [[0.0] * 3, [2.0] * 3]

    @pytest.mark.parametrize("dtype", LOW)
    def test_many_repeats_are_summed_in_float32(self, backend, dtype):
        entries = entries_of("rows", (1, 2), "all")
        dy, ids = torch.full((4096, 2), 0.1, dtype=dtype), torch.zeros(4096, dtype=torch.int64)
        assert_close(ops.embedding_grad(dy, ids, entries), dy.double().sum(0, keepdim=True))
        assert ops.embedding_grad(dy, ids, entries, torch.float32).dtype == torch.float32


class TestCopies:
    @on_kinds
    @on_dtypes
    def test_gather_copies_the_bits(self, backend, poison, kind, dtype):
        for shape, block, _ in CASES:
            dense = torch.randn(shape).to(dtype)
            dense.view(-1)[::3], dense.view(-1)[1::3] = float("nan"), -0.0
            for which in WHICH:
                entries = entries_of(kind, shape, which, block)
                for source in (dense, framed(dense)[0], spread(dense), dense.T.contiguous().T):
                    gathered = ops.gather(source, entries)
                    assert gathered.is_contiguous()
                    assert_same_bits(gathered, pick(dense, entries))

    @on_kinds
    @on_dtypes
    def test_scatter_writes_the_selected_entries_only(self, backend, kind, dtype):
        for shape, block, _ in CASES:
            original = torch.randn(shape).to(dtype)
            for which in WHICH:
                entries = entries_of(kind, shape, which, block)
                values = torch.randn(entries.compact_shape).to(dtype)
                values.view(-1)[::3], values.view(-1)[1::3] = float("nan"), -0.0
                for source in (values, framed(values)[0], spread(values)):
                    dense, check_frame = framed(original)
                    assert ops.scatter_(dense, entries, source) is dense
                    assert_same_bits(dense, place(original, entries, values))
                    check_frame()

    @on_kinds
    def test_gather_gives_a_copy(self, backend, kind):
        dense = torch.ones(4, 6)
        ops.gather(dense, entries_of(kind, (4, 6), "all", (2, 3))).zero_()
        assert bool((dense == 1).all())


class TestMaskedGrad:
    @on_kinds
    @on_dtypes
    def test_adds_the_selected_entries(self, backend, kind, dtype):
        for shape, block, _ in CASES:
            for dense_dtype in (dtype, torch.float32):
                dense_grad = torch.randn(shape).to(dense_dtype)
                for which in WHICH:
                    entries = entries_of(kind, shape, which, block)
                    grad, check_frame = framed(torch.randn(entries.compact_shape).to(dtype))
                    expected = grad.double() + 0.25 * pick(dense_grad.double(), entries)
                    found = ops.masked_grad_(grad, dense_grad, entries, 0.25)
                    assert found.dtype == torch.float32 and found.shape == () and found.item() == 0
                    assert_close(grad, expected)
                    check_frame()

    @on_kinds
    def test_takes_any_strides(self, backend, kind):
        dense_grad, entries = torch.randn(15, 17), entries_of(kind, (15, 17), "some", (5, 17))
        for source in (spread(dense_grad), dense_grad.T.contiguous().T, framed(dense_grad)[0]):
            grad = torch.zeros(entries.compact_shape)
            ops.masked_grad_(grad, source, entries)
            assert_same_bits(grad, pick(dense_grad, entries))

    @pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
    @on_kinds
    @on_dtypes
    def test_finds_inf_and_nan_among_the_selected(self, backend, kind, dtype, bad):
        shape = (15, 17)
        entries = entries_of(kind, shape, "some", (5, 1))
        selected = place(torch.zeros(shape), entries, torch.ones(entries.compact_shape)).bool()
        for at, expected in ((selected.nonzero()[-1], 1.0), ((~selected).nonzero()[-1], 0.0)):
            dense_grad = torch.ones(shape, dtype=dtype)
            dense_grad[tuple(at)] = bad
            grad = torch.zeros(entries.compact_shape, dtype=dtype)
            assert ops.masked_grad_(grad, dense_grad, entries, 1 / 1024).item() == expected
            assert bool(grad.isfinite().all()) == (expected == 0)


def _calls(kind="rows"):
    """Op name -> its torch op and arguments that it accepts."""
    entries = entries_of(kind, (8, 6), "some", (2, 3))
    index, layout, compact = entries.index, entries.layout, entries.compact_shape
    return {
        "weight_grad": (torch.randn(5, 8), torch.randn(5, 6), index, layout, torch.float32),
        "embedding_grad": (torch.randn(5, 6), torch.randint(0, 8, (5,)), index, layout, torch.bfloat16),
        "gather": (torch.randn(8, 6), index, layout),
        "scatter_": (torch.randn(8, 6), index, layout, torch.randn(compact)),
        "masked_grad_": (torch.randn(compact), torch.randn(8, 6), index, layout, 0.5),
    }


@pytest.mark.parametrize("op", ["weight_grad", "embedding_grad", "gather", "scatter_", "masked_grad_"])
@on_kinds
def test_opcheck(backend, op, kind):
    if op == "embedding_grad" and kind != "rows":
        pytest.skip("rows only")
    torch.library.opcheck(getattr(torch.ops.clm_kernels, op).default, _calls(kind)[op])


@on_kinds
def test_compiles_as_one_graph(backend, kind):
    """All five public functions, mutations included; the second call has torch trace the tokens as a symbol."""
    torch._dynamo.reset()
    entries, rows = entries_of(kind, (8, 6), "some", (2, 3)), entries_of("rows", (8, 6), "some")

    def run(dy, x, ids, dense):
        grad = ops.weight_grad(dy * 2, x, entries)
        found = ops.masked_grad_(grad, dense * 2, entries, 0.5)
        ops.scatter_(dense, entries, ops.gather(dense + 1, entries) + grad)
        return grad + 1, found, ops.embedding_grad(x, ids, rows), dense * 2

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for tokens in (5, 9):
        arguments = torch.randn(tokens, 8), torch.randn(tokens, 6), torch.randint(0, 8, (tokens,))
        dense = torch.randn(8, 6)
        eager_dense = dense.clone()
        for actual, expected in zip(compiled(*arguments, dense), run(*arguments, eager_dense), strict=True):
            assert_same_bits(actual, expected)
        assert_same_bits(dense, eager_dense)


def test_compiles_with_inductor(backend):
    torch._dynamo.reset()
    entries = entries_of("columns", (8, 6), "some")

    def run(dy, x, dense):
        ops.scatter_(dense, entries, ops.weight_grad(dy, x, entries))
        return ops.gather(dense, entries)

    dy, x, dense = torch.randn(5, 8), torch.randn(5, 6), torch.randn(8, 6)
    eager_dense = dense.clone()
    assert_same_bits(torch.compile(run, fullgraph=True)(dy, x, dense), run(dy, x, eager_dense))
    assert_same_bits(dense, eager_dense)


@pytest.mark.parametrize("op", ["weight_grad", "embedding_grad", "masked_grad_"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_at_every_run(backend, two_threads, op, dtype):
    """Large enough that torch and the kernels share the work among threads."""
    entries = entries_of("rows", (64, 96), "some")
    tokens = 1024 if ops.interpreted(backend) else 16384
    dy, x, ids = torch.randn(tokens, 96).to(dtype), torch.randn(tokens, 96).to(dtype), torch.randint(0, 64, (tokens,))

    def run():
        if op == "weight_grad":
            return ops.weight_grad(dy[:, :64], x, entries, torch.float32)
        if op == "embedding_grad":
            return ops.embedding_grad(dy, ids, entries, torch.float32)
        grad = torch.ones(entries.compact_shape, dtype=dtype)
        ops.masked_grad_(grad, x[:64], entries)
        return grad

    first = run()
    for _ in range(8):
        assert_same_bits(run(), first)
    if op == "embedding_grad":  # nor does the order in which threads reach a repeated id matter
        torch.set_num_threads(1)
        assert_same_bits(run(), first)


def test_a_write_between_forward_and_backward_is_refused(backend):
    entries = entries_of("rows", (8, 6), "some")
    dense, x = torch.randn(8, 6), torch.randn(5, 6, requires_grad=True)
    y = x @ dense.T
    ops.scatter_(dense, entries, torch.zeros(entries.compact_shape))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_masked_grad_marks_its_write(backend):
    entries = entries_of("rows", (8, 6), "some")
    grad, dense_grad = torch.zeros(entries.compact_shape), torch.randn(8, 6)
    before = grad._version, dense_grad._version
    ops.masked_grad_(grad, dense_grad, entries)
    assert grad._version > before[0] and dense_grad._version == before[1]


@st.composite
def selected_weights(draw):
    kind = draw(st.sampled_from(KINDS))
    block = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    grid = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    shape = (grid[0] * block[0], grid[1] * block[1])
    units = Entries.of(kind, [], shape, block if kind == "blocks" else None).units
    index = draw(st.sets(st.integers(0, units - 1))) if units else set()
    return Entries.of(kind, index, shape, block if kind == "blocks" else None).to(torch.get_default_device())


@given(entries=selected_weights(), tokens=st.integers(0, 40), seed=st.integers(0, 2**16), dtype=st.sampled_from(DTYPES))
def test_random_selections(backend, entries, tokens, seed, dtype):
    torch.manual_seed(seed)
    dy, x = operands(entries.shape, tokens, dtype)
    dense = dense_gradient(dy, x)
    assert_close(ops.weight_grad(dy, x, entries), pick(dense, entries))
    weight = torch.randn(entries.shape).to(dtype)
    assert_same_bits(ops.gather(weight, entries), pick(weight, entries))
    values = torch.randn(entries.compact_shape).to(dtype)
    assert_same_bits(ops.scatter_(weight.clone(), entries, values), place(weight, entries, values))
    grad = values.clone()
    ops.masked_grad_(grad, weight, entries, 2.0)
    assert_close(grad, values.double() + 2 * pick(weight.double(), entries))


def test_the_references_embedding_grad_reads_nothing_back():
    """Of tensors without contents, on a device that is not the CPU: what depends on contents, and makes a host wait, raises."""
    entries = entries_of("rows", (9, 12), "some").to("meta")
    dy, ids = torch.empty(31, 12, device="meta"), torch.empty(31, dtype=torch.int64, device="meta")
    grad = reference.embedding_grad(dy, ids, entries.index, entries.layout, torch.float32)
    assert grad.shape == (5, 12) and grad.device.type == "meta"
    for reads in (lambda: dy[ids == 0], lambda: dy.sum().item(), lambda: ids.unique()):
        with pytest.raises((NotImplementedError, RuntimeError)):
            reads()
