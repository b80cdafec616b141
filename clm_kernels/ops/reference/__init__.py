"""The readable truth: plain torch, the equations in the paper's order, float32 inside (float64 for float64).

Every other implementation is tested against these functions, and they run on any device.
"""

from .adamw import AdamWPlan
from .fisher import sensitivity
from .gradients import embedding_grad, masked_grad_, weight_grad
from .movement import gather, scatter_

__all__ = ["AdamWPlan", "embedding_grad", "gather", "masked_grad_", "scatter_", "sensitivity", "weight_grad"]
