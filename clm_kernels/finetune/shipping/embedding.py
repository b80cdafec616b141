"""A folder for sentence-transformers, without code: the fine-tuned encoder with its pooling, and the head beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModel

from ...errors import require
from ...models.folders import read_tokenizer
from ...models.pooled_head import pool
from ...models.structure import base_model
from ...recipe import TEXT
from ..encode import Encoded
from ..lora import fold
from ..outputs import write_folder
from ..split import Split
from .checking import LIMITS, check_logits, check_tokens
from .checkpoint import check_folder_is_new, check_plain, within
from .head_chain import Layer, head_chain, pooled, read_by_head, through
from .served import Served, by_torch, largest_difference, logits_of

POOLING, HEAD = "1_Pooling", "head"
MODES = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}


def export_embedding(served: Served, folder: Path, rows: Split | None) -> tuple[float, int]:
    """Writes the encoder as `SentenceTransformer(folder)` reads it; how far embeddings and logits are off, and the head's layers.

    Beside it stands the head as modules ``Dense`` of sentence-transformers, ``head/0`` and so on, where it is a chain of such.

    Raises:
        ValueError: for a tagger, words around a text that are not all before it, and what `export_checkpoint` refuses.
    """
    window, per_token = check_plain(served), served.task.per_token
    require(not per_token, "export", "sentence_transformers", "left out for a tagger, which reads no vector of a text", True)
    before, after = served.template.split(TEXT)
    require(
        not after,
        "export",
        "the template",
        "one that ends in the text, as a prompt of sentence-transformers",
        repr(served.template),
    )
    check_folder_is_new(folder)
    served.tokenizer.model_max_length = served.max_length
    encoded = within(served, rows or served.drawn(), window)
    expected = logits_of(by_torch(served.model), served.batches(encoded))
    vectors = logits_of(lambda batch: pooled(served.model, batch), served.batches(encoded))
    fold(served.model)
    mode, chain = read_by_head(served.model), head_chain(served.model)
    found = logits_of(lambda batch: through(chain, pooled(served.model, batch)), served.batches(encoded)) if chain else []
    chain = chain if found and largest_difference(expected, found)[0] < 1e-3 else []  # another head under known names
    differences = []

    def write(beside: Path) -> None:
        base = base_model(served.model)
        named = base.config.architectures
        base.save_pretrained(beside)
        base.config.architectures = named
        served.tokenizer.save_pretrained(beside)
        _write_modules(beside, mode, base.config.get_text_config().hidden_size, before, served.max_length)
        for i, layer in enumerate(chain):
            _write_dense(beside / HEAD / str(i), layer, first=i == 0)
        differences.append(_compared(served, beside, mode, chain, encoded, vectors, expected))

    write_folder(folder, write)
    return differences[0], len(chain)


def _compared(
    served: Served, folder: Path, mode: str, chain: list[Layer], encoded: Encoded, vectors: list[Any], expected: list[Any]
) -> float:  # fmt: skip
    model = AutoModel.from_pretrained(folder, dtype="auto", local_files_only=True).eval().to(served.model.device)
    found = logits_of(lambda b: pool(model(**b).last_hidden_state, b["attention_mask"], mode), served.batches(encoded))
    check_tokens(served, read_tokenizer(folder), encoded)
    limit = LIMITS[model.dtype]
    difference = check_logits("the exported embeddings", vectors, found, encoded, limit)
    if not chain:
        return difference
    with torch.no_grad():
        dtype = chain[0].linear.weight.dtype
        scores = [
            through(chain, torch.as_tensor(vector, dtype=dtype, device=model.device)).float().cpu().numpy()
            for vector in np.array(found)
        ]
    return max(difference, check_logits("the exported head", expected, scores, encoded, limit))


def _write_modules(folder: Path, mode: str, width: int, prompt: str, max_length: int) -> None:
    parts = [("0", "", "Transformer"), ("1", POOLING, "Pooling")]
    modules = [
        {"idx": i, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (name, path, kind) in enumerate(parts)
    ]
    pooling = {"word_embedding_dimension": width, **{f"pooling_mode_{key}": mode == own for own, key in MODES.items()}}
    prompts: dict[str, Any] = {"prompts": {"text": prompt}, "default_prompt_name": "text"} if prompt else {"prompts": {}}
    _write_json(folder / "modules.json", modules)
    _write_json(folder / POOLING / "config.json", pooling)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _write_json(folder / "config_sentence_transformers.json", {**prompts, "similarity_fn_name": "cosine"})


def _write_dense(folder: Path, layer: Layer, first: bool) -> None:
    linear = layer.linear
    described = {
        "in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None,
        "activation_function": f"torch.nn.{layer.activation}", "module_input_name": "sentence_embedding" if first else "scores",
        "module_output_name": "scores",
    }  # fmt: skip
    _write_json(folder / "config.json", described)
    tensors = {f"linear.{name}": parameter.detach().float().cpu().contiguous() for name, parameter in linear.named_parameters()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
