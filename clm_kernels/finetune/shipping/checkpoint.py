"""A checkpoint for plain transformers: written, read again by its class, and compared."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import require
from ...models.attention import bidirectional_layers
from ...models.folders import read_tokenizer
from ...models.mixing import mixes_layers
from ...models.plain_head import in_plain_form
from ...models.pooling import current_pooling
from ...models.portable import MODULE, save_portable
from ..encode import Encoded
from ..lora import fold
from ..outputs import write_folder
from ..split import Split
from .checking import LIMITS, check_logits, check_tokens
from .served import Served, by_torch, logits_of


def check_folder_is_new(folder: Path) -> None:
    require(not folder.exists() or not any(folder.iterdir()), "export", "output", "a new or empty folder", repr(str(folder)))


def check_no_mix(served: Served) -> None:
    mixed = mixes_layers(served.model)
    require(not mixed, "export", "the model", "one whose head reads the last layer alone", "one that mixes all layers")


def check_plain(served: Served) -> int | None:
    """Raises ValueError for what transformers alone cannot read; else up to how many tokens it reads the same, None for all."""
    config, both = served.model.config.get_text_config(), bidirectional_layers(served.model)
    every, found = "all layers or none, as plain transformers knows no others", f"layers {both.start} to {both.stop - 1}"
    plain = len(both) in (0, getattr(config, "num_hidden_layers", 0))
    require(plain, "export", "the model", f"one that attends to both sides in {every}", found)
    check_no_mix(served)
    return getattr(config, "sliding_window", None) if both else None


def export_checkpoint(served: Served, folder: Path, code: bool, rows: Split | None) -> float:
    """Writes it; the largest difference of the logits, read again, from those of the model in memory.

    Args:
        rows: real texts to compare on; texts of random tokens without.

    Raises:
        ValueError: as `Classifier.export`.
    """
    window = check_plain(served)
    if window:
        warnings.warn(
            f"export: beyond {window} tokens, plain transformers' windows reach one token further to both sides; "
            "predictions on such texts may differ",
            stacklevel=3,
        )
    check_folder_is_new(folder)
    served.tokenizer.model_max_length = served.max_length
    encoded = within(served, rows or served.drawn(), window)
    expected = logits_of(by_torch(served.model), served.batches(encoded))
    folded = hasattr(served.model, "peft_config")
    fold(served.model)
    drawn = within(served, served.drawn(), window)
    form = in_plain_form(served.model, [*served.batches(encoded), *served.batches(drawn)])
    pooling, own = current_pooling(served.model), type(served.model).__name__
    told = f"True for pooling {pooling!r}, as {own} by itself would predict otherwise (or try --onnx, --sentence-transformers)"
    require(code or form is not None, "export", "code", told, False)
    differences = []

    def write(beside: Path) -> None:
        if form is None:
            save_portable(served.model, beside)
        else:
            with form:
                served.model.save_pretrained(beside)
        served.tokenizer.save_pretrained(beside)
        differences.append(_compared(served, beside, expected, encoded, folded))

    try:
        write_folder(folder, write)
    finally:
        if form is not None:
            form.restore()
    return differences[0]


def within(served: Served, rows: Split, most: int | None) -> Encoded:
    """The texts of at most so many tokens."""
    encoded = served.encoded(rows)
    if most is None:
        return encoded
    short = [i for i, length in enumerate(encoded.dataset["length"]) if length <= most]
    return served.encoded(rows.part(short or [0]))


def _compared(served: Served, folder: Path, expected: Sequence[NDArray], encoded: Encoded, folded: bool) -> float:
    model = _read(served, folder)
    found = logits_of(by_torch(model), served.batches(encoded))
    check_tokens(served, read_tokenizer(folder), encoded)
    return check_logits("the exported checkpoint", expected, found, encoded, LIMITS[model.dtype], relative=folded)


def _read(served: Served, folder: Path) -> Any:
    """As plain transformers reads it. The code, where it needs some, is the file that was written a moment ago."""
    given: dict[str, Any] = {"dtype": "auto", "local_files_only": True}
    kind, file = served.task.auto_class, folder / f"{MODULE}.py"
    if file.is_file():
        spec = importlib.util.spec_from_file_location(MODULE, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kind = module.ClmPooledModel
    return kind.from_pretrained(folder, **given).eval().to(served.model.device)
