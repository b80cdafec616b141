"""Tiny models of the families whose batches can be packed, batches of texts of several lengths, and what they give."""

import pytest
import torch
from models import build
from tolerances import assert_close

from clm_kernels.models.packing import FAMILIES
from clm_kernels.models.structure import base_model, layers_of

LENGTHS = (3, 11, 1, 7, 2, 5)
NAMES = {"gemma3_text": "gemma3"}  # under which tests/helpers/models.py has them
ALONE = ("mpnet", "gemma2")  # which attend eagerly alone
NO_TAGS = ("gemma3",)
CASES = [
    pytest.param(NAMES.get(kind, kind), attention, id=f"{kind}-{attention}")
    for kind in FAMILIES
    for attention in ("eager", "sdpa")
    if attention == "eager" or kind not in ALONE
]
every_family = pytest.mark.parametrize(("family", "attention"), CASES)
FLOAT32 = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")  # whose norms and rotations compute in it


def tiny(family="bert", attention="sdpa", task="sequence", dtype=torch.float64, **changes):
    """A model whose tokens attend to each other strongly enough for a leak to be seen."""
    model = build(
        family, task, dtype=dtype, attn_implementation=attention, **changes
    ).eval()  # some heads drop out whatever is said
    assert model.config._attn_implementation == attention
    for layer in layers_of(model):
        for name, parameter in layer.named_parameters():
            if parameter.dim() == 2 and "norm" not in name.lower():
                parameter.data.mul_(10)
    return model


def batch(model, lengths=LENGTHS, task="sequence", width=None, seed=0):
    """A right-padded batch in which no two tokens are alike."""
    width = width or max(lengths)
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.full_like(mask, model.config.pad_token_id)
    ids[mask > 0] = 3 + torch.randperm(model.config.vocab_size - 3, generator=random)[: sum(lengths)]
    labels = torch.randint(0, 3, (len(lengths),) if task == "sequence" else ids.shape, generator=random)
    labels = labels if task == "sequence" else labels.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def outcome(model, inputs):
    """Logits, loss, and the gradients of all weights."""
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return (
        output.logits.detach(),
        output.loss.detach(),
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
    )


def hidden(model, inputs, **more):
    return base_model(model)(**{name: value for name, value in inputs.items() if name != "labels"}, **more).last_hidden_state


def assert_alike(found, expected, real=slice(None), dtype=torch.float64):
    assert_close(found[0][real], expected[0][real], dtype)
    assert_close(found[1], expected[1], dtype)
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        scale = gradient.abs().max().clamp_min(1)
        assert_close(found[2][name] / scale, gradient / scale, dtype)
