"""The ONNX graph of a classifier: from token ids to logits and calibrated probabilities, any batch and length."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._version import __version__
from ...errors import require
from ...extras import needs
from ...models.pooling import current_pooling
from ...strangers import cut
from ..encode import needs_space
from ..lora import fold
from .served import Batch, Served

# The newest that the TorchScript exporter knows all operators of, and that ONNX Runtime has read since 1.15. That exporter took
# 1 to 2 s for tiny models of 18 families and was right in 17; torch.export took 18 to 44 s for the same.
OPSET = 17
OUTPUTS = ("logits", "probabilities")
MOST = 2**31 - 2**20  # bytes of the weights: protobuf's limit, and room for the rest


class Graph(nn.Module):
    """What is traced: the model with its pooling, and its probabilities at their temperature.

    Args:
        several: whether each label's probability stands by itself, as a text may have several.
    """

    def __init__(self, model: nn.Module, names: list[str], temperature: float, several: bool):
        super().__init__()
        self.model, self.names, self.temperature, self.several = model, names, temperature, several

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        scaled = logits / self.temperature
        return logits, scaled.sigmoid() if self.several else scaled.softmax(-1)


def for_graph(served: Served) -> Any:
    """A copy of the model to be traced: in float32 on the CPU, its adapter folded into the weights, attention written out."""
    model: Any = copy.deepcopy(served.model).cpu()
    fold(model)
    model.float().eval().set_attn_implementation("eager")
    model.config.use_cache = False
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    require(
        size <= MOST, "export", "the model", "one of less than 2 GB in float32, which an ONNX file holds", f"{size / 1e9:.1f} GB"
    )
    return model


def inputs_of(batch: Batch) -> list[str]:
    """What the graph takes: token types only where a text of its own has others than 0, which is what a model takes without."""
    return [name for name in batch if name != "token_type_ids" or bool(batch[name].any())]


def write_graph(served: Served, model: Any, batch: Batch, path: Path) -> None:
    """Traces the model, and writes the graph with all that is needed to read texts in its metadata.

    Raises:
        ValueError: for a model that the exporter does not take.
    """
    onnx, names, per_token = needs("onnx", "export"), inputs_of(batch), served.task.per_token
    dims = {0: "batch", 1: "length"}
    shapes = dict.fromkeys(names, dims) | {name: dims if per_token else {0: "batch"} for name in OUTPUTS}
    graph = Graph(model, names, served.temperature, bool(served.thresholds)).eval()
    with refusing_model(served), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of traces that would be constant: shapes, which are tried below
        torch.onnx.export(
            graph, tuple(batch[name].cpu() for name in names), str(path), input_names=names, output_names=list(OUTPUTS),
            dynamic_axes=shapes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    made = onnx.load(str(path))
    onnx.helper.set_model_props(made, metadata(served))
    onnx.checker.check_model(made)
    onnx.save(made, str(path))


def metadata(served: Served) -> dict[str, str]:
    """As texts, JSON where it is no text: what a reader of the graph needs beside the tokenizer."""
    told = {
        "labels": served.labels, "task": served.task.name, "pooling": current_pooling(served.model) or "", "template": served.template,
        "max_length": served.max_length, "thresholds": served.thresholds, "temperature": served.temperature, "pad_id": served.tokenizer.pad_token_id,
        "before_word": " " if served.task.per_token and needs_space(served.tokenizer) else "", "clm_kernels": __version__,
    }  # fmt: skip
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in told.items()}


@contextmanager
def refusing_model(served: Served) -> Iterator[None]:
    """Turns what the exporter or the runtime raises into one line that names the model's class.

    Raises:
        ValueError: in place of every error but one of memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = cut((str(error).strip().splitlines() or [""])[0], 200)
        name = type(served.model).__name__
        raise ValueError(f"export: onnx must be left out for {name}, got {type(error).__name__}: {said}") from error


def session_of(path: Path, threads: int = 0) -> Any:
    """ONNX Runtime's session of a graph on the CPU; 0 threads: as many as it likes."""
    runtime = needs("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def by_session(session: Any) -> Callable[[Batch], np.ndarray]:
    """A session as `logits_of` calls it."""
    names = [given.name for given in session.get_inputs()]
    return lambda batch: session.run(["logits"], {name: batch[name].cpu().numpy() for name in names})[0]
