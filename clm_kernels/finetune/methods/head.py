"""The method head: the head alone, and the rows of new tokens if there are any."""

from __future__ import annotations

from ...selecting.pipeline import Choice
from ...selection import Selection
from .patched import Patched


class Head(Patched):
    def learning_rate(self, task):
        return 1e-3

    def can_replay(self, config):
        return True

    def choose(self, config, loaded, train, groups=None):
        choice = super().choose(config, loaded, train, groups)
        return Choice(loaded.extension.extend(Selection()), {}) if loaded.extension else choice
