"""The plain way: products of torch's matrix library in the operands' own dtype, of which the selected entries are kept.

It is what kernels are held against, and what runs on a GPU until one of them is measured to be faster.
"""

from .fisher import sensitivity
from .gradients import weight_grad
from .tokens import active_weight_grad, input_grad

__all__ = ["active_weight_grad", "input_grad", "sensitivity", "weight_grad"]
