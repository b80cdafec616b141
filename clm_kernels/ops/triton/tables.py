"""Tables that the host fills and kernels read: where the fields of a row stand."""

from collections.abc import Iterator, Sequence

import triton.language as tl


def places(fields: Sequence[str]) -> Iterator[tl.constexpr]:
    """Of each field its place in a row, for a kernel to add to the row's address."""
    return map(tl.constexpr, range(len(fields)))


def length(fields: Sequence[str]) -> tl.constexpr:
    """How far a row lies behind the one before."""
    return tl.constexpr(len(fields))
