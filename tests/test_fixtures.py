"""What the fixtures of all tests leave behind: nothing."""

import torch
from torch.utils import _device


def test_poisoned_memory_leaves_device_contexts_alone(request):
    """Also where the first context of the process is one of a poisoned test."""
    _device._device_constructors.cache_clear()
    try:
        request.getfixturevalue("poison")
        with torch.device("meta"):
            assert torch.empty(3).is_meta
    finally:
        _device._device_constructors.cache_clear()
