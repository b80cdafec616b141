"""Types of models that have a head for texts or tags in transformers and cannot be trained here, each with the reason.

`docs/models.md` has the table of all types, which `python -m benchmarks.architectures` makes.
"""

from __future__ import annotations

import os

from ..errors import require
from .folders import PREFIX, described

_TWO = "it is an encoder-decoder, whose head reads what a second stack of layers makes of the text"
_IMAGES = "it reads images or sound beside texts"
REASONS: dict[str, str] = {
    **dict.fromkeys(("bart", "bigbird_pegasus", "mbart", "mt5", "mvp", "plbart", "t5", "t5gemma", "umt5"), _TWO),
    **dict.fromkeys(("gemma3", "layoutlmv2", "layoutlmv3", "modernvbert", "perceiver", "qwen3_5", "qwen3_asr", "t5gemma2", "ultravbert"), _IMAGES),
    "reformer": "it trains on texts of a fixed length alone, which padding has to fill",
    **dict.fromkeys(("zamba", "zamba2"), "some of its layers share their weights with layers far above them"),
    "xmod": "it asks for the language of each text",
    "bros": "it reads where words stand on a page beside texts",
    "canine": "it reads characters, without a table of embeddings that a tokenizer's ids would look up",
}  # fmt: skip

BY_PADDING = (
    "convbert",
    "fnet",
    "funnel",
    "nystromformer",
    "yoso",
)  # what their layers give for a text depends on the padding after it


def check_kind(function: str, folder: str | os.PathLike) -> None:
    """Refuses a type that cannot be trained, by its config's file alone.

    Raises:
        ValueError: with the reason.
    """
    kind = str(described(folder).get("model_type", "")).removeprefix(PREFIX)
    reason = REASONS.get(kind, "")
    require(not reason, function, f"model {str(folder)!r}", "of a type that can be trained (docs/models.md)", f"{kind}: {reason}")
