"""Two processes that train one model together."""

import contextlib
import functools
import os
import socket
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from models import batch, bits, build, select
from torch.nn.parallel import DistributedDataParallel

import clm_kernels as clm

STEPS = 3


ARGUMENTS = {"lr": 1e-2, "weight_decay": 0.1}


KINDS = ("rows", "columns", "blocks", "elements")


SCENARIOS = {
    "plain": {"kind": "columns"},
    **{kind: {"kind": kind, "biases": True, "norms": True} for kind in KINDS},
    "tied": {"family": "gpt2", "task": "causal", "kind": "rows"},
    "accumulated": {"kind": "columns", "micro": 2},
    "bfloat16": {"kind": "columns", "dtype": torch.bfloat16},
    "energy": {"kind": "columns", "biases": True, "energy": 0.9},
    "unpatched": {"kind": "columns", "patched": False},
}


def halves(whole, rank):
    return {name: tensor.chunk(2)[rank] for name, tensor in whole.items()}


def run(rank, kind, family="bert", task="sequence", dtype=torch.float32, micro=1, patched=True, **options):
    """One scenario on one rank; what a test wants to know about it."""
    model = build(family, task, dtype, seed=rank)  # DDP makes the ranks' weights equal, and values must follow
    if rank:
        model.load_state_dict(build(family, task, dtype).state_dict())
    selection = select(model, kind)
    compact = 0
    if patched:
        handle = clm.patch(model, selection, **options)
        compact = selection.count + sum(model.get_parameter(name).numel() for name in handle.whole)
        optimizer = clm.SparseAdamW(model.parameters(), **ARGUMENTS)
    else:
        optimizer = clm.SparseAdamW(model.named_parameters(), selection=selection, **ARGUMENTS)
    parallel, exchanged = DistributedDataParallel(model), []

    def reduce(_, bucket):
        exchanged.append(bucket.buffer().numel())
        return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future().then(lambda done: done.value()[0])

    parallel.register_comm_hook(None, reduce)
    for step in range(STEPS):
        for i in range(micro):
            last = i == micro - 1
            with contextlib.nullcontext() if last else parallel.no_sync():
                loss = parallel(**halves(batch(model, seed=step * micro + i, task=task), rank)).loss
                (loss / micro).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        "weights": bits(model),
        "exchanged": exchanged,
        "compact": compact,
        "dense": sum(p.numel() for p in model.parameters()),
        "shares": handle.active.shares() if patched else {},
        "selection": {name: (entries.kind, entries.index.tolist()) for name, entries in selection.items()},
    }


def worker(rank, port, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = {}
    for name, scenario in SCENARIOS.items():
        try:
            results[name] = run(rank, **scenario)
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        dist.barrier()
    torch.save(results, os.path.join(folder, str(rank)))
    dist.destroy_process_group()


@functools.cache
def all_scenarios():
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mp.spawn(worker, (port, folder), nprocs=2)
        return [torch.load(os.path.join(folder, str(rank)), weights_only=False) for rank in range(2)]


def two_ranks(name):
    """The results of both ranks in one scenario."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs torch.distributed with gloo")
    return [results[name] for results in all_scenarios()]
