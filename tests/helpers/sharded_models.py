"""Models that several processes hold together, trained as one process trains them."""

import functools

import torch
from dealt_groups import deal_out
from forked_ranks import on_ranks
from models import batch, bits, build, entries, select
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

import clm_kernels as clm
from clm_kernels.measure.estimate.divided import of_handle

PROCESSES, STEPS, SIZE, LENGTH = 4, 3, 8, 7
ARGUMENTS = {"lr": 1e-3, "weight_decay": 0.1}
WIDE = {"hidden_size": 48, "intermediate_size": 80, "vocab_size": 66}  # rows that four processes cannot share alike


def cut_blocks(model):
    """Blocks through which the processes' rows cut."""
    names = [name for name in select(model, where="layer.") if model.get_parameter(name).shape[0] % 16 == 0]
    return clm.Selection((name, one_of_eight(tuple(model.get_parameter(name).shape))) for name in names)


def one_of_eight(shape):
    units = shape[0] // 16 * (shape[1] // 2)
    return clm.Entries.of("blocks", torch.arange(0, units, 8), shape, (16, 2))


def groups(model):
    return clm.Selection((name, deal_out(e.shape, 4)) for name, e in select(model, where="layer.").items())


def few(model):
    return select(model, "elements", density=0.02)


SCENARIOS = {
    **{kind: {"kind": kind} for kind in ("rows", "columns", "blocks", "elements")},
    "uneven": {"kind": "rows", "changes": WIDE},
    "uneven columns": {"kind": "columns", "changes": WIDE},
    "cut blocks": {"select": cut_blocks, "changes": WIDE},
    "groups": {"select": groups},
    "few": {"select": few, "options": {}},
    "accumulated": {"kind": "columns", "micro": 2},
    "clipped": {"kind": "columns", "clip": 0.05},
    "bfloat16": {"kind": "columns", "dtype": torch.bfloat16},
    "energy": {"kind": "blocks", "options": {"biases": True, "energy": 0.9}},
    "recomputed": {"kind": "columns", "recomputed": True},
    "decoder": {"family": "llama", "task": "token", "kind": "columns", "where": "layers.", "changes": {"classifier_dropout": 0.0}},
    "conv1d": {"family": "gpt2", "kind": "rows", "where": ".h."},
    "tied": {"family": "gpt2", "task": "causal", "kind": "rows"},
    "upper": {"kind": "columns", "where": "layer.1."},
    "pairs": {"kind": "blocks", "pairs": True},
}  # fmt: skip


COUNTED = ("columns", "uneven", "recomputed", "decoder", "upper")


def made(scenario):
    """A model, what is selected of it, and its handle."""
    family, task = scenario.get("family", "bert"), scenario.get("task", "sequence")
    model = build(family, task, scenario.get("dtype", torch.float32), **scenario.get("changes", {}))
    if "select" in scenario:
        selection = scenario["select"](model)
    else:
        selection = select(model, scenario["kind"], where=scenario.get("where", ""))
    handle = clm.patch(model, selection, **scenario.get("options", {"biases": True, "norms": True}))
    if scenario.get("recomputed"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, handle, task


def shares(whole, number):
    return [dict(zip(whole, part)) for part in zip(*(tensor.chunk(number) for tensor in whole.values()))]


def counted_calls(sharded):
    """One item for each time that gradients are averaged."""
    run, calls = sharded._reduction.run, []

    def counting():
        calls.append(None)
        run()

    sharded._reduction.run = counting
    return calls


def trained(scenario, rank=None, processes=PROCESSES, mesh=None):
    """What a run leaves: of one process that holds all and takes all processes' batches in turn, or of one of several."""
    model, handle, task = made(scenario)
    base = bits(model)
    sharded = None if rank is None else clm.shard(handle, mesh)
    reductions = counted_calls(sharded) if sharded else []
    optimizer = clm.SparseAdamW(model.parameters(), **ARGUMENTS)
    micro, seen = scenario.get("micro", 1), []
    for step in range(STEPS):
        for number in range(micro):
            parts = shares(batch(model, SIZE, LENGTH, seed=step * micro + number, task=task), processes)
            for part in parts if sharded is None else [parts[rank]]:
                loss = model(**part).loss / micro / (processes if sharded is None else 1)
                if sharded is not None and number < micro - 1:
                    with sharded.no_sync():
                        loss.backward()
                else:
                    loss.backward()
        if "clip" in scenario:
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], scenario["clip"])
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():  # a forward without a backward, after which FSDP2 keeps weights gathered
            seen.append(model.eval()(**batch(model, 2, LENGTH, seed=99, task=task)).logits.clone())
        model.train()
    delta = handle.delta()
    left = {"seen": seen, "values": delta.values | delta.whole, "base": base, "handle": handle, "trained": handle.selection}
    if sharded is None:
        return left | {"weights": bits(model)}
    [module.reshard() for module in model.modules() if isinstance(module, FSDPModule)]
    whole = {name: p.full_tensor() if isinstance(p, DTensor) else p.detach() for name, p in model.named_parameters()}
    weights = {name: tensor for name, tensor in whole.items() if name in base}
    del left["handle"]
    return left | {"weights": weights, "held": sharded.held, "exchanged": sharded.exchanged, "reductions": len(reductions)}


class Exchanged(TorchDispatchMode):
    """Bytes that collectives give and take: of all whole weights that are gathered, of all gradients that are summed up."""

    def __init__(self):
        super().__init__()
        self.bytes = {"_allgather_base_": 0, "allreduce_": 0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._opname
        if func.namespace == "c10d":
            tensor = args[0][0] if name == "allreduce_" else args[0]
            self.bytes[name] += 0 if tensor.dtype == torch.uint8 and name == "allreduce_" else tensor.nbytes
        return func(*args, **(kwargs or {}))


def counted(scenario, mesh, processes):
    """What is held and exchanged in the second step, and what was told beforehand."""
    model, handle, task = made(scenario)
    told = of_handle(model, processes)
    sharded = clm.shard(handle, mesh)
    found = {"told": told, "held": sharded.held}
    for _ in range(2):
        forward, backward = Exchanged(), Exchanged()
        with forward:
            loss = model(**batch(model, 2, LENGTH, task=task)).loss
        with backward:
            loss.backward()
    return found | {"forward": forward.bytes, "backward": backward.bytes}


def refused(scenario, rank, mesh):
    """What each mistake is told."""
    whole = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "parts"))

    def said(change, then=None):
        _, handle, _ = made(scenario | change)
        try:
            clm.shard(handle, then and then(handle))
        except (ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"

    def twice(handle):
        clm.shard(handle)

    def other(handle):
        handle.whole["classifier.weight"] = str(rank == 2)

    return {
        "mesh": said({}, lambda handle: whole),
        "twice": said({}, twice),
        "restored": said({}, lambda handle: handle.restore()),
        "other": said({}, other),
        "hooked": said({"select": lambda model: select(model, "columns", where="layer.") | position_columns(model)}),
    }


def damaged(scenario):
    """What is told where a shard no longer holds what was trained, and what is read from it."""
    model, handle, _ = made(scenario)
    clm.shard(handle)
    name, values = next(iter(handle.values.items()))
    kept = handle.delta()
    values.shard.write(torch.full_like(values, -0.0))
    found = {}
    try:
        handle.delta()
    except RuntimeError as error:
        found["lost"] = str(error)
    values.refresh()
    found["refreshed"] = bool(torch.signbit(values).all()) and not values.any()
    handle.restore()
    after = handle.delta()
    found["after"] = not after.values[name].any() and after.values.keys() == kept.values.keys()
    try:
        kept.apply(model)
    except RuntimeError as error:
        found["applied"] = f"RuntimeError: {error}"
    return found


def position_columns(model):
    name = "bert.embeddings.position_embeddings.weight"
    return clm.Selection({name: entries(tuple(model.get_parameter(name).shape), "columns")})


def run(rank):
    """Every scenario on one rank, one after the other."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("all", "pair"))
    found = {"refused": refused(SCENARIOS["columns"], rank, mesh), **damaged(SCENARIOS["columns"])}
    for name in COUNTED:
        found["counted", name, 4] = counted(SCENARIOS[name], None, 4)
        found["counted", name, 2] = counted(SCENARIOS[name], mesh["pair"], 2)
    for name, scenario in SCENARIOS.items():
        pair = scenario.get("pairs")
        found[name] = trained(scenario, rank % 2, 2, mesh["pair"]) if pair else trained(scenario, rank)
    return found


@functools.cache
def every_rank():
    return on_ranks(PROCESSES, run)


@functools.cache
def alone(name):
    scenario = SCENARIOS[name]
    return trained(scenario, processes=2 if scenario.get("pairs") else PROCESSES)
