"""An adapter type of PEFT whose weights are selected entries of the base's: importing this registers it.

``get_peft_model(model, ClmConfig(...))`` and everything after it is PEFT's own.
"""

from __future__ import annotations

from ..extras import needs

needs("peft", "clm_kernels.peft")

from .config import ClmConfig  # noqa: E402
from .conversion import from_delta, to_delta  # noqa: E402
from .layers import ClmEmbedding, ClmLayer, ClmLinear  # noqa: E402
from .registering import register  # noqa: E402
from .tuner import ClmModel  # noqa: E402

__all__ = ["ClmConfig", "ClmEmbedding", "ClmLayer", "ClmLinear", "ClmModel", "from_delta", "to_delta"]

register(ClmConfig, ClmModel)
