"""What training does with one tiny checkpoint: loaded, chosen, patched, some steps, a delta, the base back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clm_kernels import Delta, SparseAdamW, patch, set_pooling
from clm_kernels.finetune.models import Loaded, load
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.models.pooled_head import POOLED
from clm_kernels.models.pooling import natural_pooling
from clm_kernels.models.replay import replay
from clm_kernels.selecting.config import Select
from clm_kernels.selecting.pipeline import drawn_selection

LABELS = ["one", "two", "three"]
LENGTHS = (7, 3, 4)
STEPS = 3


def trial(folder: Path, task: str) -> None:
    """Raises whatever goes wrong, or AssertionError where a promise is not held."""
    pooling = "native" if TASKS[task].per_token else natural_pooling(folder)
    loaded = load(folder, TASKS[task], LABELS, pooling)
    model, inputs = loaded.model, batch(loaded, task)
    before = state(model)
    selection = drawn_selection(model, Select().resolved(), 0)
    handle = patch(model, selection, head=loaded.head)
    optimizer = SparseAdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
    model.train()
    for _ in range(STEPS):
        loss = model(**inputs).loss
        assert torch.isfinite(loss), f"a loss of {loss}"
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    delta = handle.delta(labels=LABELS)
    handle.restore()
    after, logits = state(model), run(model, inputs)
    assert any(not torch.equal(before[name], after[name]) for name in selection), "no selected weight has moved"
    frozen = [name for name in before if name not in selection and name not in delta.whole]
    assert all(torch.equal(before[name], after[name]) for name in frozen), "a frozen weight has moved"
    delta.save(folder / "delta.safetensors")
    other = load(folder, TASKS[task], LABELS, pooling).model
    base = state(other)
    with Delta.load(folder / "delta.safetensors").applied(other):
        assert equal(state(other), after), "the delta holds other weights"
        assert torch.equal(run(other, inputs), logits), "the delta gives other logits"
    assert equal(state(other), base), "the base has not come back"


def pooled(folder: Path) -> None:
    """Every pooling reads the real tokens alone."""
    loaded = load(folder, TASKS["sequence"], LABELS, "native")
    model, inputs = loaded.model, batch(loaded, "sequence")
    alone = {name: value[1:2, : int(inputs["attention_mask"][1].sum())] for name, value in inputs.items() if name != "labels"}
    for pooling in POOLED:
        with set_pooling(model, pooling):
            close = torch.allclose(run(model, inputs)[1:2], run(model, alone), rtol=1e-4, atol=2e-6)
        assert close, "padding after a text changes what is made of it"


def replayed(folder: Path) -> None:
    """A frozen lower layer is replayed with the same logits."""
    loaded = load(folder, TASKS["sequence"], LABELS, natural_pooling(folder))
    model, inputs = loaded.model, batch(loaded, "sequence")
    with patch(
        model, drawn_selection(model, Select(layers="upper half").resolved(), 0), biases=False, norms=False, head=loaded.head
    ):
        expected = run(model, inputs)
        with replay(model):
            for _ in range(2):
                assert torch.allclose(run(model, inputs), expected, rtol=1e-4, atol=1e-5), "replay gives other logits"


def batch(loaded: Loaded, task: str) -> dict[str, Tensor]:
    """Random texts, padded on the right; a type's own tokenizer class may not know a tokenizer's words."""
    ids = torch.randint(5, 60, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    inputs = {"input_ids": ids.masked_fill(mask == 0, loaded.tokenizer.pad_token_id), "attention_mask": mask}
    labels = torch.arange(len(LENGTHS))
    inputs["labels"] = labels[:, None].expand_as(inputs["input_ids"]).contiguous() if TASKS[task].per_token else labels
    return inputs


@torch.no_grad()
def run(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    model.eval()
    torch.manual_seed(0)  # of those that draw even then
    return model(**{name: value for name, value in inputs.items() if name != "labels"}).logits


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
