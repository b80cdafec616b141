"""When gradients are averaged over processes, without any."""

import pytest
import torch
from torch import nn

from clm_kernels.patching.reduction import BUCKET, Reduction, buckets


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("out of memory")


@pytest.fixture
def reduced():
    """A parameter, what averages its gradient, and how often that has been done."""
    weight, ran = nn.Parameter(torch.ones(3)), []
    reduction = Reduction([weight], None)
    reduction.run = lambda: ran.append(1)
    return weight, reduction, ran


def test_each_backward_ends_with_one(reduced):
    weight, reduction, ran = reduced
    for count in (1, 2):
        (weight * weight).sum().backward()
        assert len(ran) == count
    with reduction.put_off():
        weight.sum().backward()
    assert len(ran) == 2
    reduction.remove()
    weight.sum().backward()
    assert len(ran) == 2


def test_one_that_raised_does_not_put_off_the_next(reduced):
    weight, _, ran = reduced
    lost = Raises.apply(torch.ones(3, requires_grad=True)).sum()
    with pytest.raises(RuntimeError, match="out of memory"):
        (lost + weight.sum()).backward()
    assert weight.grad is not None and not ran
    weight.sum().backward()
    assert len(ran) == 1


def test_buckets_hold_one_dtype_and_so_many_bytes():
    small, wide, large = torch.zeros(4), torch.zeros(4, dtype=torch.float64), torch.zeros(BUCKET // 4 + 1)
    assert [len(bucket) for bucket in buckets([small, wide, small, large, small])] == [2, 1, 1, 1]
