"""`Values`: the compact leaf that autograd and the optimizer see in place of a dense weight."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import ops
from .selection import Entries
from .shards import Shard


class Values(nn.Parameter):
    """The selected entries of one dense weight as a leaf parameter of ``entries.compact_shape``.

    ``values == dense[index]`` whenever no step is half done. `SparseAdamW` finds the dense weight here.

    Attributes:
        dense: the weight that is updated in place at the selected entries; None after `release`.
        entries: which entries those are.
        spent: whether an optimizer has used `grad`; only kept up to date where the gradient is taken from a dense one.
        shard: this process's part of the weight, where FSDP2 has divided it (`clm_kernels.shard`).
    """

    dense: Tensor | None
    spent: bool
    shard: Shard | None
    _entries: Entries
    _hook: RemovableHandle | None

    def __new__(cls, dense: Tensor, entries: Entries, data: Tensor | None = None, requires_grad: bool = True) -> Values:
        if data is None:
            data = ops.gather(dense.detach(), entries.to(dense.device))
        values = super().__new__(cls, data, requires_grad)
        values.dense, values._entries, values._hook, values.spent = dense, entries, None, False
        values.shard = None
        return values

    @property
    def entries(self) -> Entries:
        """The entries, their index on the values' device."""
        if self._entries._held.device != self.device:
            self._entries = self._entries.to(self.device)
        return self._entries

    @property
    def _weight(self) -> Tensor:
        if self.dense is None:
            raise RuntimeError("Values: the dense weight has been let go of, by restore() of the handle")
        return self.dense

    @property
    def hooked(self) -> bool:
        """Whether the compact gradient is taken from the dense one, see `take_dense_gradient`."""
        return self._hook is not None

    @torch.no_grad()
    def refresh(self) -> None:
        """Reads the values anew from the dense weight, after somebody else has written there.

        Of a divided weight all processes must do so at once.
        """
        self.copy_(self.shard.gathered() if self.shard else ops.gather(self._weight.detach(), self.entries))

    def follow(self, dense: Tensor) -> None:
        """Takes `dense` for the weight from now on; a hook on the former one goes along."""
        if dense is not self.dense:
            hooked = self.hooked
            self.leave_dense_gradient()
            self.dense = dense
            if hooked:
                self.take_dense_gradient()

    def release(self) -> None:
        """Lets go of the weight: no optimizer writes there any more."""
        self.leave_dense_gradient()
        self.dense = self.shard = None

    def take_dense_gradient(self) -> None:
        """Turns every dense gradient of the weight into compact `grad` as soon as autograd has made it.

        For weights that no patched layer covers. The dense gradient is freed at once.
        """
        reference = weakref.ref(self)

        def hook(dense: Tensor) -> None:
            if (values := reference()) is not None and dense.grad is not None:
                values._accumulate(dense.grad)
                dense.grad = None

        self._weight.requires_grad_(True).grad = None
        self._hook = self._weight.register_post_accumulate_grad_hook(hook)

    def leave_dense_gradient(self) -> None:
        """Undoes `take_dense_gradient`."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @torch.no_grad()
    def _accumulate(self, dense_grad: Tensor) -> None:
        if self.grad is None:
            self.grad = torch.zeros_like(self)
        elif self.spent and self.grad.any():
            raise RuntimeError(
                "Values: clear gradients by optimizer.zero_grad() after a step; model.zero_grad() does not reach this one"
            )
        self.spent = False
        ops.masked_grad_(self.grad, dense_grad, self.entries)

    def __deepcopy__(self, memo: dict[int, Any]) -> Values:
        if id(self) in memo:
            return memo[id(self)]
        dense: Any = copy.deepcopy(self.dense, memo)
        copied = memo[id(self)] = type(self)(dense, self._entries, self.detach().clone(), self.requires_grad)
        if self.hooked:
            copied.take_dense_gradient()
        return copied

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (self.dense, self._entries, self.detach(), self.requires_grad, self.hooked)


def _rebuild(dense: Tensor, entries: Entries, data: Tensor, requires_grad: bool, hooked: bool) -> Values:
    values = Values(dense, entries, data, requires_grad)
    if hooked:
        values.take_dense_gradient()
    return values
