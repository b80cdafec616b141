"""How far a result may lie from a float64 oracle of the very same inputs: dtype -> rtol, atol. Loosen in a commit of its own."""

import torch

TOLERANCES = {
    torch.float64: (1e-12, 1e-12),  # float64 sums of up to some hundred terms of order 1, in another order
    torch.float32: (1e-5, 1e-5),  # the same in float32: some hundred roundings of 6e-8 each
    torch.bfloat16: (2**-8, 1e-5),  # float32 inside, then one rounding: half a unit in the last of 8 bits
    torch.float16: (2**-11, 1e-5),  # likewise, of 11 bits
}


def assert_close(actual: torch.Tensor, oracle: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Compares in float64, within the tolerance of `dtype` (by default the result's own)."""
    rtol, atol = TOLERANCES[dtype or actual.dtype]
    torch.testing.assert_close(actual.double(), oracle.double(), rtol=rtol, atol=atol, equal_nan=True)
