"""`Method`: what every method can do, from its options to the files that it leaves.

`train`, `estimate`, `profile`, the demo and the comparison of methods make a model ready by the same `prepare`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import require

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from ...extension import Extension
    from ...patching.active import ActiveTokens
    from ...recipe import Recipe
    from ...selecting.pipeline import Choice
    from ...selection import Selection
    from ...token_groups import TokenGroups
    from ..config import TrainConfig
    from ..encode import Encoded
    from ..models import Loaded
    from ..split import Split
    from ..tasks import Task


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for training.

    Attributes:
        model: what training calls.
        optimizer: over everything that is trained.
        handle: what undoes it by ``restore()``, or None where nothing but ``requires_grad`` was changed.
    """

    model: nn.Module
    optimizer: Optimizer
    handle: Any = None

    @property
    def active(self) -> ActiveTokens | None:
        """The layers whose backward leaves tokens out; None where there are none."""
        return getattr(self.handle, "active", None) or None

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


class Method(ABC):
    """One method.

    Attributes:
        name: as the command line has it.
        leaves: the file that tells its result, beside config and tokenizer.
        called: what that file is called in reports.
        whole_checkpoint: whether that is a model by itself, which needs no base.
        weight_decay: AdamW's, if nobody asks for another.
        selects: whether what is trained is chosen among the weights' entries.
        active_tokens: whether its backward can leave tokens out.
        replays: whether frozen layers run once, if nobody says whether they should.
        mixes: whether its head may read a mix of all layers.
        divides: whether its base can be divided over processes.
    """

    leaves: str
    called: str
    whole_checkpoint: bool = False
    weight_decay: float = 0.0
    selects: bool = False
    active_tokens: bool = False
    replays: bool = False
    mixes: bool = False
    divides: bool = False

    def __init__(self, name: str):
        self.name = name

    def check(self, config: TrainConfig) -> None:
        """Raises ValueError for options that this method cannot have."""
        possible = "left out unless layers, backward or a selection leave lower layers frozen"
        option = "cost" if config.training.cost else "noise" if config.training.noise else "energy"
        able = self.active_tokens or not config.training.leaves_out
        given = repr(getattr(config.training, option))
        require(able, "train", option, f"left out with the method {self.name}", given)
        fsdp = config.training.fsdp
        require(not fsdp or self.divides, "train", "fsdp", f"left out with the method {self.name}", fsdp)
        mixed = config.data.mix_layers
        require(not mixed or self.mixes, "train", "mix_layers", f"left out with the method {self.name}", mixed)
        require(not config.training.replay or self.can_replay(config), "train", "replay", possible, True)
        minutes, steps = config.training.minutes, f"left out with the method {self.name}, unless it replays nothing (no-replay)"
        require(minutes is None or not self.wants_replay(config), "train", "minutes", steps, minutes)
        file = config.training.replay_file
        require(not file or self.wants_replay(config), "train", "replay_file", "left out without replay", repr(file))

    def check_packages(self, function: str) -> None:
        """Raises NotInstalled, in the name of `function`, if a package that it needs is not there."""

    def wants_replay(self, config: TrainConfig) -> bool:
        """Whether the run replays what lies below all that is trained, as it was asked or by default."""
        training = config.training
        return self.replays and not training.packing if training.replay is None else training.replay

    def can_replay(self, config: TrainConfig) -> bool:
        """Whether lower layers may stay frozen."""
        return config.selecting.bounded

    @abstractmethod
    def learning_rate(self, task: Task) -> float:
        """Peak learning rate, if nobody asks for another."""

    def resolved(self, config: TrainConfig, task: Task) -> TrainConfig:
        """The same config with what ``auto`` and the defaults stand for in a task."""
        training = config.training
        rate = self.learning_rate(task) if training.learning_rate is None else training.learning_rate
        decay = self.weight_decay if training.weight_decay is None else training.weight_decay
        return config.replace(task=task.name, learning_rate=rate, weight_decay=decay)

    def find_groups(self, config: TrainConfig, loaded: Loaded, train: Split) -> TokenGroups | None:
        """The token groups of the training data by which it would choose; None where there are none to be looked for."""
        return None

    def choose(self, config: TrainConfig, loaded: Loaded, train: Encoded, groups: TokenGroups | None = None) -> Choice:
        """Warms up the head, for every method alike, and chooses what to select: here nothing."""
        from ...selecting.pipeline import Choice
        from ...selection import Selection
        from .warming import warm_up

        warm_up(config, loaded, train)
        return Choice(Selection(), {})

    def draw(self, model: nn.Module, config: TrainConfig) -> Selection:
        """A selection as large and as scattered as `choose` would make, without any data: enough for time and memory."""
        from ...selection import Selection

        return Selection()

    @abstractmethod
    def prepare(
        self,
        model: nn.Module,
        config: TrainConfig,
        selection: Selection,
        *,
        head: bool | Iterable[str] = True,
        extension: Extension | None = None,
    ) -> Prepared:
        """Makes a model that is on its device ready for training.

        Args:
            config: resolved.
            selection: what `choose` or `draw` gave.
            head: names of the parameters that are trained whole; True for those above the base model.
            extension: the new tokens of the model, if there are any.
        """

    def start(self, config: TrainConfig, loaded: Loaded, train: Encoded) -> None:
        """What is left to do before the first step of a run that is not resumed, when frozen layers are replayed or the base is
        divided over processes: here nothing.
        """

    def cost(self, config: TrainConfig, loaded: Loaded, selection: Selection, train: Encoded) -> dict[str, Any]:
        """FLOPs of a step's backward beside full fine-tuning's, as `Report.cost` has them; nothing where they cannot be told.

        Raises:
            ValueError: for a model whose cost cannot be told, see `CostModel`.
        """
        return {}

    def said_before(self, loaded: Loaded, labels: list[str], recipe: Recipe) -> str:
        """What must be said of its result before anything is trained; empty where there is nothing to say.

        Args:
            recipe: of which task, `max_length` and template are known.
        """
        return ""

    @abstractmethod
    def save(self, folder: Path, prepared: Prepared, loaded: Loaded, labels: list[str], recipe: Recipe) -> None:
        """Leaves the result in an existing folder: `leaves`, config and tokenizer. The model is then as it was, but trained."""

    def files(self, loaded: Loaded) -> list[str]:
        """The names that `save` gives files, or patterns, but those of config and tokenizer."""
        return [self.leaves]

    def help_to_save(self, prepared: Prepared) -> None:
        """What the other processes have to do while process 0 is in `save`: here nothing."""

    def load(self, path: Path) -> Any:
        """What `save` left, to be put into a base model."""
        raise ValueError(f"load: {str(path)!r} must be a delta or an adapter, got a whole checkpoint")
