"""What one training run is made of. The command line takes its options from these fields."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

from ..choose.dealing import DENSITY as DENSITY_GROUPS
from ..choose.units import KINDS
from ..pooling import POOLINGS
from ..tokenizer.merging import BY as MERGE_BY
from .errors import listed, require
from .sides import check_sides
from .templates import TEXT, check_template

METHODS = ("sparse", "full", "head", "lora")
SELECT = ("auto", "fisher", "tokens", "saliency", "magnitude", "random")
SCORES = ("auto", "accuracy", "macro_f1", "f1")
PATHS = ("model", "train", "validation", "test", "output", "selection")
SPARSE_RATE = {"sequence": 1e-3, "token": 3e-3}
# LoRA's: 3e-3 was better on all-MiniLM-L6-v2 after 250 steps (banking77 86.3 against 83.5, snips_slots 76.8 against 67.7), the
# paper's 7B models took 1e-4 (arXiv 2310.01208); 1e-3 stands between them.
LEARNING_RATE = {"sparse": SPARSE_RATE["sequence"], "full": 1e-4, "head": 1e-3, "lora": 1e-3}
DENSITY, DENSITY_BLOCKS = 0.02, 0.1
WEIGHT_DECAY = {"sparse": 0.0, "full": 0.01, "head": 0.0, "lora": 0.0}


def option(group: str, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"group": group, "help": help, "choices": choices})


files, selecting, training, running = (partial(option, group) for group in ("Data and model", "Selection", "Training", "Run"))


@dataclass
class TrainConfig:
    """One training run; `check` says what may stand in each field, `train` does it.

    Paths are strings; an empty string means "not given". Every other field is explained by its own help text.
    """

    model: str = files("", "Directory of the model to start from (config.json, weights, tokenizer).")
    train: str = files("", "Training data: .jsonl, .csv, .tsv or .parquet.")
    validation: str = files("", "Validation data, which picks the best checkpoint; a part of train if not given.")
    test: str = files("", "Test data, scored once, at the end.")
    output: str = files("", "Folder for the result; must be new or empty.")

    task: str = files("auto", "What to learn; auto: from the columns of the training data.", ("auto", "sequence", "token"))
    text_column: str = files("text", "Column of the text.")
    label_column: str = files("label", "Column of the label.")
    tokens_column: str = files("tokens", "Column of the words (token classification).")
    tags_column: str = files("tags", "Column of the words' tags (token classification).")
    template: str = files(TEXT, "Words around every text, where {text} stands for it (sequence classification).")
    validation_fraction: float = files(0.1, "Part of train that validates if no validation data is given.")

    method: str = selecting(
        "sparse", "Train a selection of the weights, all of them, the head alone, or LoRA beside them.", METHODS
    )
    select: str = selecting(
        "auto",
        "What scores the units; tokens: fisher where words stand that tell the label; auto: tokens, for tags fisher; but see kind.",
        SELECT,
    )
    density: float | None = selecting(
        None,
        "Part of the eligible weights' entries that is trained, in (0, 1]. (default: 1/8 of groups, 0.1 of blocks in the kind auto, else 0.02)",
    )
    cost: float | None = selecting(None, "Part of full fine-tuning's backward FLOPs that a step may take, in (0, 1].")
    kind: str = selecting(
        "auto",
        f"What a selected unit is: {', '.join(KINDS)}, or several joined by +; or elements; or groups of strips, dealt by chance; auto: groups, blocks "
        "drawn by chance if another size of block is given, or columns if select, cost or per is.",
    )
    block: int = selecting(8, "Height and width of a block, for the kind blocks.")
    layers: str = selecting("all", "Layers whose weights are eligible.", ("all", "upper half", "upper third"))
    per: str = selecting(
        "auto", "Whether all units compete, or each weight gives the same part; auto: rows and columns by weight.",
        ("auto", "model", "weight"),
    )  # fmt: skip
    biases: bool = selecting(True, "Train the biases too.")
    norms: bool = selecting(True, "Train the normalisation weights too.")
    sensitivity_examples: int = selecting(512, "Examples that score the units; they and some more, up to 512, warm up the head.")
    selection: str = selecting("", "Selection file to train, instead of measuring a sensitivity.")
    lora_rank: int = selecting(12, "Rank of LoRA's matrices.")
    lora_alpha: float = selecting(32, "LoRA's product is scaled by alpha / rank.")
    lora_dropout: float = selecting(0.1, "Dropout of what LoRA's matrices read.")
    lora_targets: str = selecting("query,value", "What gets LoRA: all-linear, or query, key, value and names of modules.")
    merge_tokens: int = selecting(0, "Token groups that become single tokens, whose new embedding rows train; 0: none.")
    merge_by: str = selecting("saving", "What is merged first: what saves most tokens, or has the best score.", tuple(MERGE_BY))
    pooling: str = selecting("auto", "What the head reads; auto: what the model was pretrained for.", ("auto", *POOLINGS))

    bidirectional: str = selecting(
        "auto", "Layers of a decoder that attend to both sides: none, all, upper half, or as 8-31; auto: as the model did."
    )

    epochs: float = training(5, "Passes over the training data.")
    batch_size: int = training(32, "Examples in a batch.")
    learning_rate: float | None = training(
        None, "Peak learning rate. (default: sparse 1e-3, for tags 3e-3, full 1e-4, head 1e-3, lora 1e-3)"
    )
    weight_decay: float | None = training(None, "AdamW's weight decay. (default: sparse 0, full 0.01, head 0, lora 0)")
    warmup: float = training(0.1, "Part of the steps in which the learning rate rises.")
    scheduler: str = training("linear", "Learning rate schedule, by the name transformers gives it.")
    max_length: int = training(256, "Tokens after which a text is cut off.")
    gradient_accumulation: int = training(1, "Batches whose gradients make one step.")
    max_grad_norm: float = training(1.0, "Gradients are clipped to this norm; 0: not at all.")
    precision: str = training("float32", "Arithmetic of the forward pass.", ("float32", "bf16", "fp16"))
    dtype: str = training(
        "auto",
        "Type of the weights; auto: as stored (float16 is refused), and float32 for full.",
        ("auto", "float32", "bfloat16"),
    )
    gradient_checkpointing: bool = training(False, "Compute layers again in the backward pass: less memory, more time.")
    recompute_norms: bool = training(False, "Compute RMSNorm again in the backward pass: less memory, more operations.")
    replay: bool = training(False, "Run the layers below all that is trained once for each text; needs layers or cost, or head.")
    eval_steps: int | None = training(None, "Validate and save every so many steps. (default: every epoch)")
    best_by: str = training("auto", "Score that picks the best checkpoint; auto: f1 of tagged spans, else accuracy.", SCORES)
    patience: int | None = training(None, "Stop after so many validations without a better score. (default: never)")
    seed: int = running(42, "Seed of everything that is random.")
    report_to: str = running("none", "Where the Trainer logs to: tensorboard, wandb, … ; none.")

    resume: bool = running(False, "Go on from the last checkpoint in the output folder.")
    overwrite: bool = running(False, "Replace the run that stands in the output folder.")
    keep_checkpoints: bool = running(False, "Keep checkpoints/ in the output folder of a run that has ended well.")

    @property
    def peak_learning_rate(self) -> float:
        return LEARNING_RATE[self.method] if self.learning_rate is None else self.learning_rate

    @property
    def weights_dtype(self) -> str:
        return "float32" if (self.method, self.dtype) == ("full", "auto") else self.dtype

    @property
    def decay(self) -> float:
        return WEIGHT_DECAY[self.method] if self.weight_decay is None else self.weight_decay

    def check(self, required: tuple[str, ...] = ("model", "train", "output")) -> None:
        """Raises ValueError, one line, for the first field that cannot be right."""
        for name in required:
            require(bool(getattr(self, name)), "train", name, "given", "nothing")
        for spec in fields(self):
            if choices := spec.metadata["choices"]:
                value = getattr(self, spec.name)
                require(value in choices, "train", spec.name, listed(choices), repr(value))
        check_template(self.template)
        check_sides(self.bidirectional)
        known = f"'auto', 'elements', 'groups', {listed(KINDS)}, or several of these joined by +"
        require(
            self.kind in ("auto", "elements", "groups") or set(self.kind.split("+")) <= set(KINDS),
            "train", "kind", known, repr(self.kind),
        )  # fmt: skip
        dealt = self.kind != "groups" or self.select in ("auto", "random")
        require(dealt, "train", "select", "auto or random for groups, which are dealt by chance", repr(self.select))
        require(self.density is None or 0 < self.density <= 1, "train", "density", "in (0, 1]", self.density)
        require(self.cost is None or 0 < self.cost <= 1, "train", "cost", "in (0, 1]", self.cost)
        require(0 < self.validation_fraction < 1, "train", "validation_fraction", "in (0, 1)", self.validation_fraction)
        require(0 <= self.warmup < 1, "train", "warmup", "in [0, 1)", self.warmup)
        require(self.epochs > 0, "train", "epochs", "above 0", self.epochs)
        require(self.max_grad_norm >= 0, "train", "max_grad_norm", "0 or more", self.max_grad_norm)
        require(self.decay >= 0, "train", "weight_decay", "0 or more", self.decay)
        require(self.peak_learning_rate > 0, "train", "learning_rate", "above 0", self.learning_rate)
        require(self.merge_tokens >= 0, "train", "merge_tokens", "0 or more", self.merge_tokens)
        without = "left out with merge_tokens, whose embedding rows take the whole backward pass"
        require(self.cost is None or not self.merge_tokens, "train", "cost", without, self.cost)
        alone = "0 with the method lora, which trains no embedding rows"
        require(self.method != "lora" or not self.merge_tokens, "train", "merge_tokens", alone, self.merge_tokens)
        bounded = self.layers != "all" or self.cost is not None or bool(self.selection) or self.method == "head"
        possible = "left out unless layers, cost or a selection leave lower layers frozen"
        require(not self.replay or (bounded and self.method != "full"), "train", "replay", possible, self.replay)
        require(self.lora_alpha > 0, "train", "lora_alpha", "above 0", self.lora_alpha)
        require(0 <= self.lora_dropout < 1, "train", "lora_dropout", "in [0, 1)", self.lora_dropout)
        named = any(map(str.strip, self.lora_targets.split(",")))
        require(named, "train", "lora_targets", "names, separated by commas", repr(self.lora_targets))
        require(self.max_length >= 8, "train", "max_length", "8 or more", self.max_length)
        counts = ("batch_size", "gradient_accumulation", "sensitivity_examples", "eval_steps", "patience", "block", "lora_rank")
        for name in counts:
            value = getattr(self, name)
            require(value is None or value >= 1, "train", name, "1 or more", value)
        require(not (self.resume and self.overwrite), "train", "resume and overwrite", "not both given", "both")

    def resolved(self, task: str) -> TrainConfig:
        """The same with what ``auto`` and the defaults stand for in a task; their evidence is in benchmarks/tasks/NOTES.md."""
        scored = self.selection or self.cost is not None or (self.select, self.per) != ("auto", "auto")
        meant = {"density": DENSITY, "kind": "columns"}
        if self.method == "sparse":
            meant["learning_rate"] = SPARSE_RATE[task]
            if self.kind == "auto" and not scored and self.block != TrainConfig.block:
                meant |= {"density": DENSITY_BLOCKS, "kind": "blocks", "select": "random"}
            elif self.kind == "groups" or (self.kind == "auto" and not scored):
                meant |= {"density": DENSITY_GROUPS, "kind": "groups", "select": "random"}
        return replace(self, **{name: value for name, value in meant.items() if getattr(self, name) in (None, "auto")})

    def absolute(self) -> TrainConfig:
        """The same with absolute paths, as it is recorded."""
        return TrainConfig(**{**asdict(self), **{p: os.path.abspath(getattr(self, p)) for p in PATHS if getattr(self, p)}})
