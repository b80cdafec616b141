"""Tensors with a checksum in one safetensors file: whole or not there, and unaltered or refused."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import require
from .files import write_atomically
from .fingerprint import checksum
from .strangers import LENGTH, MEGABYTE, check_file, cut, fits, parse_json

HEADER, TENSORS, DIMS = MEGABYTE, 10_000, 8  # at most: bytes of the header, tensors of a file, dims of a tensor
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # bytes
TENSOR = {"dtype": str, "shape": [int], "data_offsets": [int]}


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors and what describes them, and a checksum of both; nothing in the file is pickled.

    Raises:
        ValueError: for more than `read_tensors` reads again.
    """
    require(len(tensors) <= TENSORS, "write_tensors", "tensors", f"at most {TENSORS:,}", f"{len(tensors):,}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(tensors, {**metadata, "checksum": checksum(tensors, metadata)})
    header, expected = (
        int.from_bytes(content[:8], "little"),
        f"at most {HEADER:,} bytes (fewer new tokens, shorter labels or details)",
    )
    require(header <= HEADER, "write_tensors", "the file's header", expected, f"{header:,}")
    write_atomically(path, content)


def read_tensors(path: str | os.PathLike, function: str, *formats: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_tensors` wrote: tensors, and metadata without the checksum.

    Args:
        function: in whose name errors are raised.
        formats: the values of ``metadata["format"]`` that are known there; any, if none is given.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, altered or something else; a header that asks for too much, before it is read.
    """
    metadata, name = check_header(path, function), cut(repr(os.fspath(path)), 4096)
    if formats and metadata.get("format") not in formats:
        got = cut(str(metadata.get("format")))
        raise ValueError(f"{function}: {name} must have format {' or '.join(formats)}, got {got}")
    if "checksum" not in metadata:
        raise ValueError(f"{function}: {name} must be one that clm_kernels wrote, got one without a checksum")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        _broken(path, function, str(error))
    if metadata.pop("checksum", "") != checksum(tensors, metadata):
        raise ValueError(f"{function}: {name} has been altered since it was saved: its checksum does not match")
    return tensors, metadata


def check_header(path: str | os.PathLike, function: str) -> dict[str, str]:
    """The metadata of a safetensors file whose header is small, and describes tensors that lie in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not so; of the tensors nothing has been read.
    """
    described, space = header_of(path, function, HEADER)
    name, metadata = cut(repr(os.fspath(path)), 4096), described.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    require(texts, function, f"the metadata of {name}", "texts by name", "something else")
    require(len(described) <= TENSORS, function, name, f"a file of at most {TENSORS:,} tensors", f"{len(described):,}")
    end = 0
    for tensor in sorted(described.values(), key=_begin):
        known = (
            fits(tensor, TENSOR)
            and len(tensor["shape"]) <= DIMS
            and tensor["dtype"] in WIDTHS
            and min(tensor["shape"], default=0) >= 0
        )
        if not known:
            _broken(path, function, f"a tensor must have a shape of at most {DIMS} sizes and one of {', '.join(WIDTHS)}")
        if tensor["data_offsets"] != [end, end := end + math.prod(tensor["shape"]) * WIDTHS[tensor["dtype"]]]:
            _broken(path, function, "its tensors must lie one after the other, of the sizes that their shapes have")
    if end != space:
        _broken(path, function, f"its tensors take {end:,} bytes of {space:,}")
    if (long := max(map(len, described), default=0)) > LENGTH:
        _broken(path, function, f"the name of a tensor has {long:,} characters")
    return metadata


def header_of(path: str | os.PathLike, function: str, most: int) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and the bytes behind it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the header is longer than `most` bytes, or there is none.
    """
    size = check_file(path, function, 2**63)
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            _broken(path, function, f"a header of {length:,} bytes in {size:,}")
        name = cut(repr(os.fspath(path)), 4096)
        require(
            length <= most,
            function,
            f"the header of {name}",
            f"at most {most:,} bytes",
            f"{length:,}; it is not what it should be",
        )
        try:
            described = parse_json(file.read(length), function, "the header", most=most, unique=True)
        except ValueError as error:
            _broken(path, function, str(error).removeprefix(f"{function}: "))
    if not isinstance(described, dict):
        _broken(path, function, "its header must be an object")
    return described, size - 8 - length


def _begin(tensor: Any) -> tuple[int, ...]:
    """What to sort by; something for what is no tensor, too."""
    offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    return tuple(offsets) if fits(offsets, [int]) else ()


def _broken(path: str | os.PathLike, function: str, why: str) -> NoReturn:
    name = cut(repr(os.fspath(path)), 4096)
    raise ValueError(f"{function}: {name} is truncated or no safetensors file: {cut(why, 300)}; fetch or make it again") from None
