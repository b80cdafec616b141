"""The CUDA kernels for tensors on an NVIDIA GPU: same functions, same arguments as `ops.reference`.

They run asynchronously on the current stream of the tensors' device, and wait for nothing.
"""

from ..fields import check_build

try:
    from ... import _cuda

    check_build(_cuda)
except ImportError as error:
    raise ImportError(
        "the CUDA kernels are not built: install the CUDA toolkit (nvcc) and run "
        "`CLM_KERNELS_CUDA=1 pip install --force-reinstall --no-binary clm-kernels clm-kernels`, "
        f"or, in a source tree, `CLM_KERNELS_CUDA=1 pip install -e .` ({error})"
    ) from error

from .adamw import AdamWPlan
from .gradients import masked_grad_
from .movement import gather, scatter_

__all__ = ["AdamWPlan", "gather", "masked_grad_", "scatter_"]
