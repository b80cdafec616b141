"""Microbenchmarks of the ops: what is run, what it is held against, and how time is taken."""

from .cases import DTYPES, KINDS, KINDS_OF, OPS, SHAPES, Case, build
from .machine import provenance
from .timing import Machine, Timer, measure, rotated

__all__ = [
    "DTYPES",
    "KINDS",
    "KINDS_OF",
    "OPS",
    "SHAPES",
    "Case",
    "Machine",
    "Timer",
    "build",
    "measure",
    "provenance",
    "rotated",
]
