"""`--minutes`: what a run takes in time, measured before its first step, and what of it fits."""

from .fitting import within
from .shares import Shares, as_found

__all__ = ["Shares", "as_found", "within"]
