"""What several runs need of one."""

from __future__ import annotations

from collections.abc import Callable

from ..config import TrainConfig
from ..report import Report

Say = Callable[[str], None]
Train = Callable[[TrainConfig, Say], Report]
