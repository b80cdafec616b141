"""What an adapter is worth in plain PEFT: the same scores where the model's own class pools as the head does, else a clear word."""

from __future__ import annotations

import json
from pathlib import Path

from ...escaping import code, markdown
from ...handles import Undo
from ...models.plain_head import straighten
from ...models.pooling import current_pooling
from ...models.portable import pools_by_code, reads_natively
from ...recipe import TEXT, Recipe
from ..artifacts import CARD
from ..models import Loaded
from ..tasks import TASKS
from .served import Served

WHERE = {
    "mean": "the mean of all tokens",
    "max": "the maximum over all tokens",
    "cls": "the first token",
    "last": "the last token",
}

_PLAIN = """\
from peft import PeftModel
from transformers import AutoConfig, {auto}, AutoTokenizer

config = AutoConfig.from_pretrained(FOLDER)  # labels, padding and pooling, as they were trained
base = {auto}.from_pretrained(BASE, config=config)
model = PeftModel.from_pretrained(base, FOLDER).eval()
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
"""


def served_in_training(loaded: Loaded, labels: list[str], recipe: Recipe) -> Served:
    """The model of a run, adapted or not."""
    return Served(
        loaded.model, loaded.tokenizer, TASKS[recipe.task], labels, recipe.max_length or loaded.tokenizer.model_max_length,
        recipe.template, 1.0,
    )  # fmt: skip


def for_plain_peft(served: Served) -> Undo | None:
    """Gives the model the form in which its own class predicts the same, if there is one; `restore` takes it back."""
    model, training = served.model, served.model.training
    if not pools_by_code(model):
        return Undo(model)
    model.eval()
    natively = reads_natively(model, served.batches(served.encoded(served.drawn())))
    model.train(training)
    return Undo(model) if natively else straighten(model)


def warning(served: Served) -> str:
    """What must be said before an adapter is trained whose scores plain PEFT will not give; empty where it will."""
    form = for_plain_peft(served)
    if form is not None:
        form.restore()
        return ""
    return f"in plain PEFT this adapter will give other scores: {_reason(served)}; `export --onnx` or `--sentence-transformers` leaves what runs elsewhere"


def write_adapter_card(folder: Path, served: Served, base: str, plain: bool) -> None:
    """README.md of an adapter: how plain PEFT reads it, or that it must not.

    Args:
        plain: whether plain PEFT gives the same scores.
    """
    kind = "token-classification" if served.task.per_token else "text-classification"
    lines = ["---", f"base_model: {json.dumps(Path(base).name)}", "library_name: peft", f"pipeline_tag: {kind}", "---", ""]
    lines += [
        f"# A LoRA adapter for {markdown(Path(base).name)}",
        "",
        f"{len(served.labels)} labels, trained by clm-kernels.",
        "",
    ]
    if plain:
        lines += [
            "In plain PEFT, with BASE the folder of the base model:",
            "",
            "```python",
            *_PLAIN.format(auto=served.task.auto).splitlines(),
            "```",
        ]
    else:
        lines += [
            f"**Plain PEFT reads this folder and gives other, wrong scores:** {_reason(served)}.",
            "`clm-kernels predict --model FOLDER` gives the right ones. What runs without clm-kernels: `clm-kernels export --model FOLDER "
            "--output NEW --onnx`, or `--sentence-transformers`.",
        ]
    if served.template != TEXT:
        lines += ["", f"Every text is to be given as {code(served.template)}."]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _reason(served: Served) -> str:
    pooling = current_pooling(served.model) or "native"
    return f"the head reads {WHERE.get(pooling, pooling)}, which {type(served.model).__name__} by itself does not"
