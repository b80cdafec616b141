"""The method head: the head alone, and the rows of new tokens if there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...selecting.pipeline import Choice
from ...selection import Selection
from .patched import Patched
from .warming import warm_up

if TYPE_CHECKING:
    from ...token_groups import TokenGroups
    from ..config import TrainConfig
    from ..encode import Encoded
    from ..models import Loaded
    from ..tasks import Task


class Head(Patched):
    replays, mixes = True, True

    def learning_rate(self, task: Task) -> float:
        return 1e-2

    def can_replay(self, config: TrainConfig) -> bool:
        return True

    def choose(self, config: TrainConfig, loaded: Loaded, train: Encoded, groups: TokenGroups | None = None) -> Choice:
        if not self.wants_replay(config):
            warm_up(config, loaded, train)
        return Choice(loaded.extension.extend(Selection()) if loaded.extension else Selection(), {})

    def start(self, config: TrainConfig, loaded: Loaded, train: Encoded) -> None:
        """Warms up the head, which then takes no forward pass of its own."""
        if self.wants_replay(config):
            warm_up(config, loaded, train)
