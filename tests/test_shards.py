"""`Shard`: which entries lie in a process's rows, and that nothing else is written there."""

import pytest
import torch
from models import entries

from clm_kernels import Entries, ops
from clm_kernels.shards import Shard, rows_of

SHAPE, SENTINEL = (24, 10), 77.0
CUTS = [(0, 24), (0, 8), (8, 16), (4, 5), (5, 23), (23, 24), (12, 12), (24, 24)]


class Alone:
    """A module with rows of a weight in the middle of other memory, which no process group is needed for."""

    def __init__(self, weight, begin, end):
        self.memory = torch.full((end - begin + 4, SHAPE[1]), SENTINEL)
        self.rows = self.memory[2 : end - begin + 2]
        self.rows.copy_(weight[begin:end])
        self._parameters = {"weight": self}

    def reshard(self):
        pass

    def detach(self):
        return self

    def to_local(self):
        return self.rows


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "elements", "none"])
def test_a_shard_is_written_at_its_own_entries_and_nowhere_else(kind, cut):
    begin, end = cut
    chosen = Entries.of("elements", [], SHAPE) if kind == "none" else entries(SHAPE, kind, density=0.4)
    weight, values = torch.randn(SHAPE), torch.randn(chosen.compact_shape)
    alone = Alone(weight, begin, end)
    Shard(alone, "weight", chosen, begin, end, alone, None).write(values)
    ops.scatter_(weight, chosen, values)
    assert torch.equal(alone.rows, weight[begin:end])
    assert (alone.memory[:2] == SENTINEL).all() and (alone.memory[end - begin + 2 :] == SENTINEL).all()


@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "elements"])
def test_every_entry_lies_in_one_shard(kind):
    chosen = entries(SHAPE, kind, density=0.4)
    parts = [rows_of(chosen, begin, min(begin + 7, 24))[0] for begin in range(0, 24, 7)]
    assert sum(part.count for part in parts) == chosen.count > 0
    held = torch.cat([part.flat_index().flatten() + 7 * i * SHAPE[1] for i, part in enumerate(parts)])
    assert torch.equal(held.sort().values, chosen.flat_index().flatten().sort().values)


def test_whole_blocks_stay_blocks():
    """Which the kernels write faster than elements."""
    chosen = entries(SHAPE, "blocks", density=0.4)
    assert [rows_of(chosen, *cut)[0].kind for cut in CUTS[:5]] == ["blocks", "blocks", "blocks", "elements", "elements"]
