"""The C++ kernels for tensors on the CPU: same functions, same arguments as `ops.reference`.

`sensitivity` is the vendor's products: there is no C++ kernel for it.
"""

try:
    from clm_kernels import _cpu  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the C++ kernels are not built: install a C++ compiler and run `pip install --force-reinstall clm-kernels`, "
        f"or, in a source tree, `pip install -e .` ({error})"
    ) from error

from ..vendor import sensitivity
from .adamw import AdamWPlan
from .gradients import embedding_grad, masked_grad_, weight_grad
from .movement import gather, scatter_

__all__ = ["AdamWPlan", "embedding_grad", "gather", "masked_grad_", "scatter_", "sensitivity", "weight_grad"]
