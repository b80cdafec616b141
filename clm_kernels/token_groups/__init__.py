"""Which words make the decision: runs of pieces by class, counted, ranked, and where they stand in a text."""

from .association import MEASURES
from .groups import TokenGroup, TokenGroups, token_groups

__all__ = ["MEASURES", "TokenGroup", "TokenGroups", "token_groups"]
