"""The plain way: products of torch's matrix library in the operands' own dtype, of which the selected entries are kept.

It is what kernels are held against, and what runs on a GPU until one of them is measured to be faster.
"""

from .fisher import sensitivity
from .gradients import weight_grad

__all__ = ["sensitivity", "weight_grad"]
