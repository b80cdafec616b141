"""Dealt groups: how they are recognised, and that their gradient is the blocks' own. How they are dealt: test_dealing.py."""

import importlib

import pytest
import torch
from dealt_groups import GROUPS, SHAPES, deal_out, grid_of
from oracles import DTYPES, assert_same_bits, pick
from tolerances import assert_close

from clm_kernels import Entries, ops
from clm_kernels.ops import grouped
from clm_kernels.ops.grouped import Shape, find_groups, groups_of
from clm_kernels.selecting.units.dealing import dealt


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_groups_are_recognised_from_the_index(shape, groups):
    entries = deal_out(shape, groups)
    grid, found = grid_of(entries), find_groups(entries.index, entries.layout)
    assert sum(count for count, *_ in found.shapes) == min(groups, *shape)
    assert found.rows.unique().tolist() == list(range(grid.shape[0])) and len(found.rows) == grid.shape[0]
    row, column, rectangles = 0, 0, torch.zeros_like(grid)
    for count, high, wide in found.shapes:
        for _ in range(count):
            rectangles[found.rows[row : row + high, None], found.columns[column : column + wide]] = True
            row, column = row + high, column + wide
    assert torch.equal(rectangles, grid)


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [0, 1, 10],  # two rows share one column but not the other
        [0, 1, 11],  # likewise, the row after it begins elsewhere
        [0, 10, 11],
        [0, 1, 10, 11, 21],
        [0, 1, 10, 12, 25, 26, 36, 48, 49, 59],  # as many as the rectangles of its labels hold
    ],
)
def test_what_is_no_set_of_rectangles_is_not_taken_for_one(blocks):
    entries = Entries.of("blocks", blocks, (24, 40), (4, 4))  # a grid of 6 x 10
    assert groups_of(entries.index, entries.layout) is None


def test_one_block_more_or_less_is_noticed():
    entries = deal_out((128, 192), 2)
    for changed in (
        entries.index[1:],
        torch.cat([entries.index, (~grid_of(entries)).flatten().nonzero()[0].int()]).sort().values,
    ):
        assert find_groups(changed, entries.layout) is None
    for kind in ("rows", "columns", "elements"):
        assert groups_of(entries.index, Entries.everything(kind, (64, 96)).layout) is None


def test_an_index_is_looked_at_once_and_anew_when_it_has_changed(monkeypatch):
    looked, find = [], grouped.find_groups
    monkeypatch.setattr(grouped, "find_groups", lambda *args: looked.append(1) or find(*args))
    index, layout = deal_out((64, 96), 3).index.clone(), deal_out((64, 96), 3).layout
    assert groups_of(index, layout) is groups_of(index, list(layout)) is not None and len(looked) == 1
    index[0] = 1 - index[0]
    assert groups_of(index, layout) is None and len(looked) == 2
    assert groups_of(index, layout) is None and len(looked) == 2


def test_the_same_index_may_stand_for_other_blocks():
    entries = Entries.of("blocks", [0, 3], (4, 12), (2, 2))
    assert groups_of(entries.index, entries.layout).shapes == ((1, 1, 2),)
    assert groups_of(entries.index, Entries.of("blocks", [], (8, 6), (2, 2)).layout).shapes == ((1, 2, 1),)


class TestGradient:
    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
    def test_equals_the_dense_gradient(self, backend, poison, dtype):
        for shape, groups, tokens in (
            ((64, 96), 3, 37),
            ((48, 80), 8, 1),
            ((30, 14), 1, 65),
            ((7, 13), 100, 31),
            ((16, 16), 2, 0),
        ):
            dy = (torch.randn(tokens, shape[0]) * max(1, tokens) ** -0.5).to(dtype)
            x = torch.randn(tokens, shape[1]).to(dtype)
            entries = _dealt_here(shape, groups)
            grad = ops.weight_grad(dy, x, entries)
            assert grad.dtype == dtype and grad.shape == entries.compact_shape and grad.is_contiguous()
            assert_close(grad, pick(dy.double().T @ x.double(), entries))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_more_tokens_than_are_gathered_at_a_time(self, backend, dtype):
        """float32 sums over all parts: a result that was rounded in between would miss bfloat16's tolerance."""
        if ops.interpreted(backend):
            pytest.skip("slow in the interpreter, whose kernel gathers nothing ahead")
        dy, x, entries = torch.randn(2500, 48).to(dtype) / 50, torch.randn(2500, 32).to(dtype), _dealt_here((48, 32), 2)
        assert_close(ops.weight_grad(dy, x, entries, torch.float32), pick(dy.double().T @ x.double(), entries))

    def test_takes_any_strides(self, backend):
        dy, x, entries = torch.randn(33, 64), torch.randn(33, 96), _dealt_here((64, 96), 4)
        expected = ops.weight_grad(dy, x, entries)
        wide = torch.randn(33, 193)
        wide[:, 1::2] = x
        assert_close(ops.weight_grad(dy.T.contiguous().T, wide[:, 1::2], entries), expected)

    def test_inf_and_nan_reach_their_own_entries_only(self, backend):
        dy, x, entries = torch.randn(9, 32), torch.randn(9, 48), _dealt_here((32, 48), 2)
        dy[3, 2], x[5, 7] = float("nan"), float("inf")
        expected = pick(dy.double().T @ x.double(), entries)
        assert torch.equal(ops.weight_grad(dy, x, entries).isfinite(), expected.isfinite())

    def test_the_same_bits_at_every_run(self, backend, two_threads):
        tokens = 64 if ops.interpreted(backend) else 4096
        dy, x, entries = torch.randn(tokens, 64), torch.randn(tokens, 96), _dealt_here((64, 96), 4)
        first = ops.weight_grad(dy, x, entries)
        for _ in range(4):
            assert_same_bits(ops.weight_grad(dy, x, entries), first)

    def test_opcheck_and_compile(self, backend):
        entries = _dealt_here((32, 48), 2)
        dy, x = torch.randn(9, 32), torch.randn(9, 48)
        torch.library.opcheck(torch.ops.clm_kernels.weight_grad.default, (dy, x, entries.index, entries.layout, torch.float32))
        torch._dynamo.reset()
        compiled = torch.compile(lambda dy, x: ops.weight_grad(dy * 2, x, entries) + 1, fullgraph=True, backend="aot_eager")
        for tokens in (9, 5):
            assert_same_bits(compiled(dy[:tokens], x[:tokens]), ops.weight_grad(dy[:tokens] * 2, x[:tokens], entries) + 1)


class TestTritonKernel:
    """What `backend` does not reach: its results are those of TestGradient."""

    @pytest.fixture(autouse=True)
    def _backend(self):
        if not ops.interpreted("triton"):
            pytest.skip("runs in Triton's interpreter")
        with ops.backend("triton"):
            yield

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(("tile", "tokens"), [((16, 32, 16), 37), ((32, 16, 16), 300), ((64, 128, 16), 5)])
    def test_tiles_and_shares_of_tokens_cover_a_group(self, monkeypatch, poison, dtype, tile, tokens):
        """Tiles smaller than a group, larger than one, and several programs for the tokens of one tile."""
        module = importlib.import_module("clm_kernels.ops.triton.grouped_grad")
        monkeypatch.setattr(module, "grouped_tiles", lambda *_: tile)
        for shape, groups in (((64, 96), 1), ((80, 112), 2), ((96, 48), 3), ((40, 72), 2)):
            dy, x, entries = (
                torch.randn(tokens, shape[0]).to(dtype) / 8,
                torch.randn(tokens, shape[1]).to(dtype),
                deal_out(shape, groups),
            )
            monkeypatch.setattr(module, "any_weight_grad", None)  # what is not grouped would go there
            grad = ops.weight_grad(dy, x, entries, torch.float32)
            assert_close(grad, pick(dy.double().T @ x.double(), entries))

    def test_every_strip_is_in_one_tile(self):
        module = importlib.import_module("clm_kernels.ops.triton.grouped_grad")
        shapes = (Shape(1, 3, 2), Shape(2, 4, 5))
        table = module.tile_table(shapes, 2, 4, torch.device("cpu")).tolist()
        strips = [
            (row, column) for top, down, left, right, _ in table for row in range(top, down) for column in range(left, right)
        ]
        groups = ((0, 3, 0, 2), (3, 7, 2, 7), (7, 11, 7, 12))
        assert sorted(strips) == [
            (r, c) for top, down, left, right in groups for r in range(top, down) for c in range(left, right)
        ]
        assert [first for *_, first in table] == [0] * 2 + [2] * 4 + [7] * 4
        assert all(down - top <= 2 and right - left <= 4 for top, down, left, right, _ in table)

    @pytest.mark.parametrize("block", [(3, 4), (256, 1)])
    def test_blocks_that_it_cannot_tile_go_to_the_other_kernel(self, block):
        shape = (2 * block[0], 2 * block[1])
        dy, x, entries = torch.randn(7, shape[0]), torch.randn(7, shape[1]), Entries.of("blocks", [0, 3], shape, block)
        assert_close(ops.weight_grad(dy, x, entries), pick(dy.double().T @ x.double(), entries))


def _dealt_here(shape, groups):
    """On the device of the test's backend."""
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.device("cpu"):
        entries = dealt(shape, groups, generator)
    return entries.to(torch.get_default_device())
