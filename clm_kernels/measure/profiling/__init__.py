"""What a training step costs, by phase and by purpose, for any loop and beside full fine-tuning."""

from .memory import PARTS
from .phases import PHASES
from .session import Report, profiling

__all__ = ["PARTS", "PHASES", "Report", "profiling"]
