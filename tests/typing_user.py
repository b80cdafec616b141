"""A user's program, for mypy alone: the public names have the types that a reader of README expects."""

from typing import Any, assert_type

from torch import Tensor, nn

import clm_kernels as clm


def choose_and_train(model: nn.Module, tokenizer: Any, dataset: list[dict[str, Any]]) -> None:
    selection = clm.choose(model, tokenizer, dataset, density=0.02, kind="columns", tokens=True)
    assert_type(selection, clm.Selection)
    assert_type(selection["weight"], clm.Entries)
    handle = clm.patch(model, selection, biases=True, norms=True)
    assert_type(handle, clm.Handle)
    assert_type(handle.values, dict[str, clm.Values])
    optimizer = clm.SparseAdamW(model.parameters(), lr=1e-3)
    assert_type(optimizer, clm.SparseAdamW)
    optimizer.step()
    with clm.profiling(model, optimizer) as profiled:
        assert_type(profiled, clm.profiling)
    assert_type(profiled.report.milliseconds, dict[str, float])
    delta = handle.delta()
    assert_type(delta, clm.Delta)
    delta.save("intent.safetensors")
    handle.restore()


def apply(model: nn.Module) -> None:
    delta = clm.Delta.load("intent.safetensors")
    assert_type(delta, clm.Delta)
    with delta.applied(model):
        pass
    delta.apply(model)
    delta.revert()
    clm.SparseAdamW(model.parameters(), lr=1e-3, selection=clm.Selection.load("selection.safetensors"))


def alter(model: nn.Module) -> None:
    clm.bidirectional(model, "upper half")
    clm.causal(model)
    clm.restore_attention(model)
    assert_type(clm.bidirectional_layers(model), range)
    clm.set_pooling(model, "mean")
    assert_type(clm.replay(model), clm.Replay)
    assert_type(clm.pack_batches(model), clm.Packing)


def score(model: nn.Module, batches: list[dict[str, Tensor]]) -> None:
    clm.warm_up_head(model, batches)
    scores = clm.sensitivity(model, batches, kind="rows")
    assert_type(scores, dict[str, Tensor])
    assert_type(clm.budget(scores, model, density=0.02, kind="rows"), clm.Selection)


def finetune(config: clm.TrainConfig) -> None:
    clm.train(config)
    assert_type(clm.Classifier.load("folder"), clm.Classifier)


def call(dy: Tensor, x: Tensor, entries: clm.Entries) -> None:
    assert_type(clm.ops.weight_grad(dy, x, entries), Tensor)
    assert_type(clm.ops.gather(x, entries), Tensor)
    assert_type(clm.__version__, str)


def mistakes(model: nn.Module) -> None:
    """Each of these is refused: an ignore that is not needed is an error."""
    clm.patch(model, "selection")  # type: ignore[arg-type]
    clm.Delta.load(3)  # type: ignore[arg-type]
    clm.nothing_of_that_name  # type: ignore[attr-defined]  # noqa: B018
