"""The plain way: products of torch's matrix library in the operands' own dtype, of which the selected entries are kept.

It is what kernels are held against, and what runs on a GPU until one of them is measured to be faster. All that is not a
product is the reference's.
"""

from ..reference import AdamWPlan, embedding_grad, gather, masked_grad_, scatter_
from .sensitivity import sensitivity
from .weight_grad import weight_grad

__all__ = ["AdamWPlan", "embedding_grad", "gather", "masked_grad_", "scatter_", "sensitivity", "weight_grad"]
