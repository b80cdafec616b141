"""A function in several processes of one gloo group, forked from one that has all imported already."""

import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked import ended, start

PATIENCE = timedelta(seconds=60)  # with a process that has died
DEADLINE = 300  # seconds for all


def on_ranks(processes, function, *arguments):
    """What ``function(rank, *arguments)`` returns in each; any error is this one's."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs torch.distributed with gloo")
    with tempfile.TemporaryDirectory() as folder:
        children = [start(_run, rank, processes, Path(folder), function, arguments) for rank in range(processes)]
        codes = ended(children, DEADLINE)
        assert codes == [0] * processes, codes
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(processes)]


def _run(rank, processes, folder, function, arguments):
    torch.set_num_threads(1)  # OpenMP's threads are not there any more
    store = dist.FileStore(str(folder / "store"), processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=PATIENCE)
    torch.save(function(rank, *arguments), folder / str(rank))
    dist.barrier()
    dist.destroy_process_group()
