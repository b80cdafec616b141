"""The readable truth: plain torch, the equations in the paper's order, float32 inside (float64 for float64).

Every other implementation is tested against these functions, and they run on any device.
"""

from .adamw import AdamWPlan
from .fisher import sensitivity
from .gradients import embedding_grad, masked_grad_, weight_grad
from .movement import gather, scatter_
from .tokens import active_tokens, active_weight_grad, drawn_tokens, input_grad

__all__ = [
    "AdamWPlan", "active_tokens", "active_weight_grad", "drawn_tokens", "embedding_grad", "gather", "input_grad", "masked_grad_", "scatter_",
    "sensitivity", "weight_grad",
]  # fmt: skip
