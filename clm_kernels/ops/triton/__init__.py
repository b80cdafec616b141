"""Triton kernels, for NVIDIA's and AMD's GPUs; under ``TRITON_INTERPRET=1`` they run on the CPU, slowly, for tests.

`gather`, `scatter_` and `masked_grad_` are torch's own indexing, which waits for memory and nothing else.
"""

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError(f"the Triton kernels need the package triton: `pip install triton` ({error})") from error

from ..reference import gather, masked_grad_, scatter_
from .adamw import AdamWPlan
from .embedding_grad import embedding_grad
from .grouped_grad import weight_grad
from .sensitivity import sensitivity

__all__ = ["AdamWPlan", "embedding_grad", "gather", "masked_grad_", "scatter_", "sensitivity", "weight_grad"]
