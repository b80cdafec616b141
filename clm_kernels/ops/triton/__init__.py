"""Triton kernels, for NVIDIA's and AMD's GPUs; under ``TRITON_INTERPRET=1`` they run on the CPU, slowly, for tests."""

from ...extras import install

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError(f"the Triton kernels need the package triton: {install('triton')} ({error})") from error

from .adamw import AdamWPlan
from .embedding import embedding_grad
from .fisher import sensitivity
from .grouped_grad import weight_grad
from .tokens import active_tokens, drawn_tokens, input_grad

__all__ = [
    "AdamWPlan",
    "active_tokens",
    "active_weight_grad",
    "drawn_tokens",
    "embedding_grad",
    "input_grad",
    "sensitivity",
    "weight_grad",
]

active_weight_grad = weight_grad  # whose last arguments are the tokens
