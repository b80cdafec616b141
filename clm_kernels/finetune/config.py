"""What one training run is made of. The command line takes its options from these fields.

Nothing here needs torch or transformers.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

from ..defaults import BATCH_SIZE, LABELS, MAX_LENGTH, MERGE_BY, POOLINGS, SEED
from ..energy import energies
from ..errors import require
from ..options import MOST, check_choices, check_counts, option
from ..selecting.config import Select
from .effects import idle
from .given_shares import parsed
from .hub import on_hub
from .names import METHODS, TASKS
from .templates import TEXT, check_template

REQUIRED = ("model", "train", "output")
PATHS = ("model", "train", "validation", "test", "output", "selection", "replay_file")
SIDES = ("auto", "none", "all", "upper half")
SCHEDULERS = (  # of those that transformers has; the others want arguments
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau",
)  # fmt: skip
SEEDS, EPOCHS = 2**32, 10**6  # below the first numpy takes them; more steps than the second makes no Trainer counts
SPAN = re.compile(r"(\d+)-(\d+)")
_data, _lora, _training, _run = (partial(option, group) for group in ("Data and model", "LoRA", "Training", "Run"))


@dataclass(frozen=True)
class Data:
    """What is read: files, their columns, and the base model with its tokenizer. An empty string means "not given"."""

    model: str = _data("", "Directory of the model to start from (config.json, weights, tokenizer).")
    train: str = _data(
        "",
        "Training data: .jsonl, .csv, .tsv, .parquet or .conll; a folder of parts; hf://datasets/OWNER/NAME; -: standard input.",
    )
    validation: str = _data("", "Validation data, which picks the best checkpoint; a part of train if not given.")
    test: str = _data("", "Test data, scored once, at the end.")
    task: str = _data("auto", "What to learn; auto: from the columns of the training data.", ("auto", *TASKS))
    text_column: str = _data("text", "Column of the text.")
    label_column: str = _data("label", "Column of the label.")
    labels_column: str = _data(LABELS, "Column of a list of labels (multi-label classification).")
    label_separator: str = _data("", 'What divides the labels, where several stand in one text, as "a|b".')
    tokens_column: str = _data("tokens", "Column of the words (token classification).")
    tags_column: str = _data("tags", "Column of the words' tags (token classification).")
    delimiter: str = _data("", "What divides the fields of a .csv or .tsv. (default: found: a comma, ;, a tab or |)")
    skip_bad_rows: bool = _data(False, "Leave out rows that cannot be read, and count them; `check` lists them.")
    template: str = _data(TEXT, "Words around every text, where {text} stands for it (sequence classification).")
    validation_fraction: float = _data(0.1, "Part of train that validates if no validation data is given.")
    max_length: int = _data(MAX_LENGTH, "Tokens after which a text is cut off.")
    long: str = _data(
        "truncate",
        "Texts beyond max_length: cut off, read in windows that count as one text together, or an error.",
        ("truncate", "window", "error"),
    )
    merge_tokens: int = _data(0, "Token groups that become single tokens, whose new embedding rows train; 0: none.")
    merge_by: str = _data("saving", "What is merged first: what saves most tokens, or has the best score.", MERGE_BY)
    pooling: str = _data("auto", "What the head reads; auto: what the model was pretrained for.", ("auto", *POOLINGS))
    mix_layers: bool = _data(False, "The head reads a learned mix of all layers in place of the last (method head).")
    bidirectional: str = _data(
        "auto", "Layers of a decoder that attend to both sides: none, all, upper half, or as 8-31; auto: as the model did."
    )
    dtype: str = _data(
        "auto",
        "Type of the weights; auto: as stored (float16 is refused), and float32 for full.",
        ("auto", "float32", "bfloat16"),
    )

    def check(self) -> None:
        """Raises ValueError, one line, for the first field that cannot be right."""
        check_choices(self)
        check_template(self.template)
        single = len(self.delimiter) <= 1 and self.delimiter not in ('"', "\n", "\r")
        require(single, "train", "delimiter", "one character, as ';' or $'\\t'", repr(self.delimiter))
        known = self.bidirectional in SIDES or SPAN.fullmatch(self.bidirectional)
        sides = f"{', '.join(SIDES)}, or the first and last layer as 8-31"
        require(bool(known), "train", "bidirectional", sides, repr(self.bidirectional))
        require(0 < self.validation_fraction < 1, "train", "validation_fraction", "in (0, 1)", self.validation_fraction)
        require(self.merge_tokens >= 0, "train", "merge_tokens", "0 or more", self.merge_tokens)
        require(8 <= self.max_length <= MOST, "train", "max_length", f"8 or more, and at most {MOST}", self.max_length)


@dataclass(frozen=True)
class LoRA:
    """What the method lora puts beside the weights of `Select.layers`; as in arXiv 2310.01208."""

    lora_rank: int = _lora(12, "Rank of LoRA's matrices.")
    lora_alpha: float = _lora(32, "LoRA's product is scaled by alpha / rank.")
    lora_dropout: float = _lora(0.1, "Dropout of what LoRA's matrices read.")
    lora_targets: str = _lora("query,value", "What gets LoRA: all-linear, or query, key, value and names of modules.")

    def check(self) -> None:
        """Raises ValueError, one line, for the first field that cannot be right."""
        check_counts(self, "lora_rank")
        require(0 < self.lora_alpha < math.inf, "train", "lora_alpha", "above 0, and finite", self.lora_alpha)
        require(0 <= self.lora_dropout < 1, "train", "lora_dropout", "in [0, 1)", self.lora_dropout)
        named = any(map(str.strip, self.lora_targets.split(",")))
        require(named, "train", "lora_targets", "names, separated by commas", repr(self.lora_targets))


@dataclass(frozen=True)
class Training:
    """How it is trained."""

    method: str = _training(
        "sparse", "Train a selection of the weights, all of them, the head alone, or LoRA beside them.", tuple(METHODS)
    )
    epochs: float = _training(5, "Passes over the training data.")
    batch_size: int = _training(BATCH_SIZE, "Examples in a batch.")
    learning_rate: float | None = _training(
        None, "Peak learning rate. (default: sparse and lora 1e-3, full 1e-4, for tags three times that; head 1e-2)"
    )
    weight_decay: float | None = _training(None, "AdamW's weight decay. (default: sparse 0, full 0.01, head 0, lora 0)")
    warmup: float = _training(0.1, "Part of the steps in which the learning rate rises.")
    scheduler: str = _training("linear", "Learning rate schedule, by the name transformers gives it.", SCHEDULERS)
    gradient_accumulation: int = _training(1, "Batches whose gradients make one step.")
    max_grad_norm: float = _training(1.0, "Gradients are clipped to this norm; 0: not at all.")
    precision: str = _training("float32", "Arithmetic of the forward pass.", ("float32", "bf16", "fp16"))
    energy: str = _training(
        "1",
        "Part of each layer's gradient whose tokens take part in its backward, 1: every token; or by role, as"
        " attention=0.999,feed_forward=0.95.",
    )
    noise: float = _training(
        0.0,
        "In place of energy: tokens are drawn by chance and weighted, so that each layer adds at most this part to the expected"
        " squared error of its gradient, and no bias; 0: every token.",
    )
    skip: float = _training(
        0.0,
        "Leave out examples that have little left to teach, as long as that adds at most this part to the expected squared error"
        " of the gradients; 0: none.",
    )
    cost: float | None = _training(
        None,
        "Part of full fine-tuning's FLOPs that the run may take: in place of noise and skip, which it sets as it goes.",
    )
    minutes: float | None = _training(
        None,
        "Minutes that the run may take: in place of cost, and where that is not enough of epochs, which it finds by timing steps.",
    )
    shares: str = _training(
        "", "With cost: shares of the second epoch, the third …, as 0.5,0.4; what a run within minutes has found, in run.yaml."
    )
    balance: str = _training(
        "none",
        "Let rare labels count as frequent ones: by weights in the loss, or by a sample that draws their texts more often.",
        ("none", "weights", "sample"),
    )
    gradient_checkpointing: bool = _training(False, "Compute layers again in the backward pass: less memory, more time.")
    recompute_norms: bool = _training(False, "Compute RMSNorm again in the backward pass: less memory, more operations.")
    replay: bool | None = _training(
        None,
        "Run the layers below all that is trained once for each text; needs layers or backward, or head. (default: for head)",
    )
    replay_file: str = _training(
        "", "With replay: a file that keeps what the layers gave, for later runs too; at most 4 GB. (default: in memory)"
    )
    fsdp: bool = _training(
        False, "Divide the base over torchrun's processes (FSDP2), each of which holds its part alone (method sparse)."
    )
    packing: bool = _training(False, "Let texts of a batch share rows, none seeing another, so that hardly any padding runs.")
    eval_steps: int | None = _training(None, "Validate and save every so many steps. (default: every epoch)")
    best_by: str = _training(
        "auto",
        "Score that picks the best checkpoint: accuracy, macro_f1, micro_f1, exact_match or f1; auto: f1 of tagged spans, micro_f1"
        " of several labels, else accuracy.",
    )
    patience: int | None = _training(None, "Stop after so many validations without a better score. (default: never)")

    @property
    def leaves_out(self) -> bool:
        """Whether tokens are left out of the backward."""
        return self.noise > 0 or self.cost is not None or min(energies(self.energy, "train").values()) < 1

    def check(self) -> None:
        """Raises ValueError, one line, for the first field that cannot be right."""
        check_choices(self)
        require(0 <= self.noise < 1, "train", "noise", "in [0, 1)", self.noise)
        one = min(energies(self.energy, "train").values()) == 1 or not self.noise
        require(one, "train", "energy and noise", "given one without the other", f"{self.energy} and {self.noise}")
        require(0 <= self.skip < 1, "train", "skip", "in [0, 1)", self.skip)
        require(self.cost is None or 0 < self.cost <= 1, "train", "cost", "in (0, 1]", self.cost)
        require(self.minutes is None or 0 < self.minutes < math.inf, "train", "minutes", "above 0", self.minutes)
        parsed(self.shares)
        for name in ("cost", "minutes"):
            self._check_deciding(name)
        every = "none or weights with skip, cost and minutes, which read every text once an epoch"
        all_read = self.skip or self.cost or self.minutes
        require(self.balance != "sample" or not all_read, "train", "balance", every, repr(self.balance))
        require(not (self.packing and self.replay), "train", "packing and replay", "not both given", "both")
        whole = "above 1 with skip, as the first epoch leaves nothing out"
        require(not self.skip or self.epochs > 1, "train", "epochs", whole, self.epochs)
        require(0 <= self.warmup < 1, "train", "warmup", "in [0, 1)", self.warmup)
        require(0 < self.epochs <= EPOCHS, "train", "epochs", f"above 0, and at most {EPOCHS}", self.epochs)
        require(self.max_grad_norm >= 0, "train", "max_grad_norm", "0 or more", self.max_grad_norm)
        decays = self.weight_decay is None or 0 <= self.weight_decay < math.inf
        require(decays, "train", "weight_decay", "0 or more, and finite", self.weight_decay)
        positive = self.learning_rate is None or 0 < self.learning_rate < math.inf
        require(positive, "train", "learning_rate", "above 0, and finite", self.learning_rate)
        check_counts(self, "batch_size", "gradient_accumulation", "eval_steps", "patience")

    def _check_deciding(self, option: str) -> None:
        """Raises ValueError for what is given beside an option that decides it."""
        if getattr(self, option) is None:
            return
        further = (("cost", None), ("packing", False)) if option == "minutes" else ()
        for name, none in (("energy", "1"), ("noise", 0.0), ("skip", 0.0), ("replay", None), *further):
            value = getattr(self, name)
            decided = "which decides it" if name != "packing" else "which times batches as they are padded"
            require(value in (none, False), "train", name, f"left out with {option}, {decided}", repr(value))


@dataclass(frozen=True)
class Run:
    """Where the result goes, and what is random."""

    output: str = _run("", "Folder for the result; must be new or empty.")
    seed: int = _run(SEED, "Seed of everything that is random.")
    seeds: int = _run(1, "Seeds to train with, from --seed on, each in a folder of its own; the best by validation is kept.")
    search: int = _run(
        0, "Trials that look for learning rate, density and epochs by validation, as far as these are not given; 0: none."
    )
    report_to: str = _run("none", "Where the Trainer logs to: tensorboard, wandb, … ; none.")
    resume: bool = _run(False, "Go on from the last checkpoint in the output folder.")
    overwrite: bool = _run(False, "Replace the run that stands in the output folder.")
    keep_checkpoints: bool = _run(False, "Keep checkpoints/ in the output folder of a run that has ended well.")

    def check(self) -> None:
        """Raises ValueError, one line, for the first field that cannot be right."""
        require(not (self.resume and self.overwrite), "train", "resume and overwrite", "not both given", "both")
        check_counts(self, "seeds")
        require(self.search >= 0, "train", "search", "0 or more", self.search)
        last = self.seed + max(self.seeds - 1, self.search)
        require(0 <= self.seed and last < SEEDS, "train", "seed", "0 or more, and below 2**32 with all that follow", self.seed)
        require(self.seeds == 1 or not self.search, "train", "search", "left out with seeds", self.search)


PARTS: dict[str, type] = {"data": Data, "selecting": Select, "lora": LoRA, "training": Training, "run": Run}
DEFAULTS = {spec.name: spec.default for known in PARTS.values() for spec in fields(known)}
OPTIONS = {spec.name: part for part, known in PARTS.items() for spec in fields(known)}  # option -> the part that it stands in


@dataclass(frozen=True, init=False)
class TrainConfig:
    """One training run, in five parts; `train` does it, and says first what cannot be right.

    ```python
    TrainConfig(model="minilm", train="train.jsonl", output="intents", epochs=3)
    ```

    Args:
        data, selecting, lora, training, run: the parts.
        options: fields of any part by their own names; they stand before those of a part that is given too.
        given: names of options that were given before, by `replace`, whose options set those back that they leave without effect;
            without it, all of the parts that are given.

    Attributes:
        given: names of all options that were given, by name or in a part, those equal to a default too.

    Raises:
        TypeError: for an option that there is not.
    """

    data: Data
    selecting: Select
    lora: LoRA
    training: Training
    run: Run
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def __init__(
        self,
        *,
        data: Data | None = None,
        selecting: Select | None = None,
        lora: LoRA | None = None,
        training: Training | None = None,
        run: Run | None = None,
        given: Iterable[str] | None = None,
        **options: Any,
    ):
        if unknown := options.keys() - OPTIONS.keys():
            raise TypeError(f"TrainConfig: options must be among {', '.join(OPTIONS)}, got {min(unknown)!r}")
        given_parts = {"data": data, "selecting": selecting, "lora": lora, "training": training, "run": run}
        parts = {part: given_parts[part] or known() for part, known in PARTS.items()}
        before = (name for name, part in OPTIONS.items() if given_parts[part] is not None) if given is None else given
        object.__setattr__(self, "given", frozenset({*before, *options}))
        for part in PARTS:
            own = {name: value for name, value in options.items() if OPTIONS[name] == part}
            object.__setattr__(self, part, replace(parts[part], **own))
        if given is not None:
            self._set_back({name for name, _ in idle(_options_of(parts))} | options.keys())

    def _set_back(self, kept: set[str]) -> None:
        """Sets options that have no effect back to their defaults, but those that are kept."""
        names = {name for name, _ in idle(self.options())} - kept
        object.__setattr__(self, "given", self.given - names)
        for part in PARTS:
            own = {name: DEFAULTS[name] for name in names if OPTIONS[name] == part}
            object.__setattr__(self, part, replace(getattr(self, part), **own))

    def check(self, required: tuple[str, ...] = REQUIRED) -> None:
        """Raises ValueError, one line, for the first field that cannot be right, whatever the method."""
        options = self.options()
        for name in required:
            require(bool(options[name]), "train", name, "given", "nothing")
        for part in PARTS:
            getattr(self, part).check()
        several = self.run.seeds > 1 or self.run.search > 0
        require(
            not several or self.training.minutes is None, "train", "minutes", "left out with seeds and search", options["minutes"]
        )
        for name, reason in idle(options):
            require(options[name] == DEFAULTS[name], "train", name, f"left out {reason}", repr(options[name]))

    def replace(self, **options: Any) -> TrainConfig:
        """The same with other options, or other parts; what these leave without effect is set back to its default."""
        return replace(self, **options)

    def beside(self, **options: Any) -> TrainConfig:
        """One with what was given to this one and these options, as if all had been given at once."""
        said = {name: value for name, value in self.options().items() if name in self.given}
        return TrainConfig(**said | options)

    def options(self) -> dict[str, Any]:
        """All fields of all parts by name, as they are recorded."""
        return _options_of({part: getattr(self, part) for part in PARTS})

    def portable(self) -> dict[str, Any]:
        """As `options`, of files and folders the names alone: for what leaves the machine."""
        return {name: os.path.basename(value) if name in PATHS else value for name, value in self.options().items()}

    def absolute(self) -> TrainConfig:
        """The same with absolute paths, as it is recorded."""
        given = self.options()
        return replace(self, **{path: os.path.abspath(given[path]) for path in PATHS if given[path] and not on_hub(given[path])})


def _options_of(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for part in parts.values() for name, value in asdict(part).items()}
