"""Tokenised texts in an Arrow file, read by memory mapping: what is not being read takes no memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import named

if TYPE_CHECKING:
    from datasets import Dataset

BYTES = {"attention_mask", "token_type_ids", "special_tokens_mask"}  # columns of small numbers; the others take four bytes each


def spooled(chunks: Iterable[Mapping[str, list[Any]]]) -> Dataset:
    """Chunks of rows, column by column, as one dataset.

    The file stands in a temporary folder (``TMPDIR``) that is gone when this returns, or raises: what is mapped stays until
    the dataset goes, and nothing is left behind by a process that ends in whatever way. No cache has it.
    """
    import pyarrow as pa
    from datasets import Dataset

    with tempfile.TemporaryDirectory(prefix="clm-tokens-") as folder:
        path, writer = Path(folder) / "tokens.arrow", None
        with named(path), open(path, "wb") as file:
            for chunk in chunks:
                try:
                    columns = [pa.array(rows, _type(name, rows[0])) for name, rows in chunk.items()]
                except (pa.ArrowInvalid, OverflowError) as error:
                    raise ValueError(f"encode: the tokenizer's ids must be below 2^31, got one that is not: {error}") from None
                batch = pa.record_batch(columns, list(chunk))
                writer = writer or pa.ipc.new_stream(file, batch.schema)
                writer.write_batch(batch)
            if writer is not None:
                writer.close()
        return Dataset.from_file(str(path))


def _type(name: str, value: Any) -> Any:
    import pyarrow as pa

    single = value[0] if isinstance(value, list) and value else value
    kind = pa.float32() if isinstance(single, float) else pa.int8() if name in BYTES else pa.int32()
    return pa.list_(kind) if isinstance(value, list) else kind
