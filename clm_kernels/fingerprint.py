"""Fingerprints of tensors: same dtype, shape and bits, same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

PLACES, RUN = 64, 64  # where a tensor is read, and entries there
SAMPLE = PLACES * RUN


def fingerprint(tensor: Tensor) -> str:
    """32 hex digits over dtype, shape and bytes of a tensor on any device."""
    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)} ".encode(), digest_size=16)
    digest.update(memoryview(tensor.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def sampled(tensors: Iterable[Tensor]) -> str:
    """32 hex digits over dtypes, shapes and a sample of tensors, in whatever order; about `SAMPLE` entries, all where there are fewer.

    Reading all of all-MiniLM-L6-v2 takes 0.1 s, this some milliseconds. Of a tensor mapped from a file some pages are read.
    """
    marks = {f"{tuple(tensor.shape)} {fingerprint(_sample(tensor.detach()))}" for tensor in tensors}
    return hashlib.blake2b(" ".join(sorted(marks)).encode(), digest_size=16).hexdigest()


def _sample(tensor: Tensor) -> Tensor:
    """From rows spread over the tensor a part of each, one beside the other, which together come by all columns."""
    if tensor.numel() <= SAMPLE:
        return tensor.flatten()
    columns = tensor.shape[-1]
    rows = tensor.numel() // columns
    place, entry = torch.arange(PLACES)[:, None], torch.arange(RUN)
    within = (place * columns // PLACES + entry * -(-columns // SAMPLE)) % columns
    return tensor.flatten()[(place * rows // PLACES * columns + within).flatten().to(tensor.device)]


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """32 hex digits over everything that a safetensors file holds but this checksum itself."""
    digest = hashlib.blake2b(json.dumps(sorted(metadata.items())).encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {fingerprint(tensors[name])} ".encode())
    return digest.hexdigest()
