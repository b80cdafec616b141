"""Fine-tune small language models into classifiers by training a small selection of their weights in place."""

from ._version import __version__
from .choose import budget, choose, sensitivity, warm_up_head
from .decoder import bidirectional, bidirectional_layers, causal, restore_attention
from .delta import Delta
from .optim import SparseAdamW
from .patch import Handle, patch
from .pooling import set_pooling
from .profile import profiling
from .replay import Replay, replay
from .selection import Entries, Selection
from .values import Values

__all__ = [
    "Delta",
    "Entries",
    "Handle",
    "Replay",
    "Selection",
    "SparseAdamW",
    "Values",
    "__version__",
    "bidirectional",
    "bidirectional_layers",
    "budget",
    "causal",
    "choose",
    "patch",
    "profiling",
    "replay",
    "restore_attention",
    "sensitivity",
    "set_pooling",
    "warm_up_head",
]  # fmt: skip
