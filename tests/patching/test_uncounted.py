"""`active.uncounted`: tokens of an idle batch are not counted, however it ends."""

import pytest
from gradients import WHOLE, backward
from models import build, select

import clm_kernels as clm
from clm_kernels.patching.active import uncounted


def test_what_is_not_to_be_counted_is_not_counted_after_an_error_either():
    model = build("bert", "sequence", dropout=0.0)
    handle = clm.patch(model, select(model), **WHOLE, energy=0.9)
    backward(model)
    counted = handle.active.counts(reset=False)
    with pytest.raises(KeyboardInterrupt), uncounted(model):
        backward(model)
        assert handle.active.counts(reset=False) != counted
        raise KeyboardInterrupt
    assert handle.active.counts() == counted
