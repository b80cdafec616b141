"""A model that is trained in its upper layer alone, batches of the same texts, and what they give."""

import torch
from models import build

from clm_kernels.models.structure import depths

LAYERS = {"gpt2": "n_layer", "distilbert": "n_layers"}
BELOW = 2  # of three layers the frozen ones


def upper(family="bert", dtype=torch.float64, task="sequence", **changes):
    """A model of three layers whose third one and head are trained."""
    model = build(family, task, dtype=dtype, **{LAYERS.get(family, "num_hidden_layers"): BELOW + 1}, **changes)
    depth = depths(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(depth[name] >= BELOW)
    return model


def part(batch, rows, length):
    """Some texts of a batch, in another order and with other padding."""
    found = {}
    for name, tensor in batch.items():
        cut = tensor[rows, :length] if tensor.dim() == 2 else tensor[rows]
        pad = length - cut.shape[-1] if tensor.dim() == 2 else 0
        found[name] = torch.nn.functional.pad(cut, (0, pad), value=-100 if name == "labels" else 0)
    return found


def outcome(model, batch):
    """Logits, and the gradients of what is trained."""
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output.logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
