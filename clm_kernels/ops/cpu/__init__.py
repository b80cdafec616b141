"""The C++ kernels for tensors on the CPU: same functions, same arguments as `ops.reference`."""

from ..fields import check_build

try:
    from ... import _cpu

    check_build(_cpu)
except ImportError as error:
    raise ImportError(
        "the C++ kernels are not built: install a C++ compiler and run `pip install --force-reinstall clm-kernels`, "
        f"or, in a source tree, `pip install -e .` ({error})"
    ) from error

from .adamw import AdamWPlan
from .gradients import embedding_grad, masked_grad_, weight_grad
from .movement import gather, scatter_
from .tokens import active_tokens, active_weight_grad, drawn_tokens, input_grad

bfloat16_products = _cpu.bfloat16_products  # whether the processor has AVX512-BF16, with which torch's own products run

__all__ = [
    "AdamWPlan", "active_tokens", "active_weight_grad", "bfloat16_products", "drawn_tokens", "embedding_grad", "gather", "input_grad",
    "masked_grad_", "scatter_", "weight_grad",
]  # fmt: skip
