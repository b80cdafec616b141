"""Tensors with a checksum in one safetensors file: whole or not there, and unaltered or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .files import write_atomically
from .fingerprint import checksum


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors and what describes them, and a checksum of both; nothing in the file is pickled."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, {**metadata, "checksum": checksum(tensors, metadata)}))


def read_tensors(path: str | os.PathLike, function: str, *formats: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_tensors` wrote: tensors, and metadata without the checksum.

    Args:
        function: in whose name errors are raised.
        formats: the values of ``metadata["format"]`` that are known there; any, if none is given.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, altered or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{function}: {os.fspath(path)!r} is truncated or no safetensors file: {error}") from error
    if formats and metadata.get("format") not in formats:
        raise ValueError(f"{function}: {os.fspath(path)!r} must have format {' or '.join(formats)}, got {metadata.get('format')}")
    if "checksum" not in metadata:
        raise ValueError(f"{function}: {os.fspath(path)!r} must be one that clm_kernels wrote, got one without a checksum")
    if metadata.pop("checksum") != checksum(tensors, metadata):
        raise ValueError(f"{function}: {os.fspath(path)!r} has been altered since it was saved: its checksum does not match")
    return tensors, metadata
