"""Fixtures for all tests: a seed, the implementations that exist, poisoned memory."""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, settings

TWICE = "Warning only once for all operators"  # how torch's remark on a second registration of a kernel begins
warnings.filterwarnings("error", message=TWICE)
NO_SCALAR = "only 0-dimensional arrays can be converted to Python scalars"  # numpy 2.5, where 2.4 warned

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported

from clm_kernels import ops  # noqa: E402
from clm_kernels.ops.registry import DEVICES, INTERPRETED, MODULES  # noqa: E402

torch.set_num_threads(1)  # tests run side by side; those about threads ask for `two_threads`

settings.register_profile(
    "tests",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("tests")

PLACES = [
    pytest.param(
        (name, device), id=name if device == "cpu" else f"{name}-{device}", marks=[pytest.mark.gpu] if device == "cuda" else []
    )
    for name in MODULES
    for device in ([DEVICES[name]] if DEVICES[name] else ["cpu", "cuda"])
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", f"error:{TWICE}")


def pytest_collection_finish() -> None:
    """What is there by now stays: without this, the full collection at the end of every training looks through all of it again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function):
    """Skips what Triton 3.6's interpreter cannot do with numpy 2.5: loops to a bound that is a tensor."""
    try:
        return (yield)
    except Exception as error:
        if INTERPRETED and NO_SCALAR in str(error):
            pytest.skip(f"this Triton's interpreter does not go with this numpy: {NO_SCALAR}")
        raise


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _working_gpu() -> None:
    """After an access beyond a tensor nothing runs on the GPU in this process: pytest-xdist goes on in a new one."""
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)
        pytest.exit(f"the GPU is lost to this process: {error}", returncode=1)


@pytest.fixture(params=PLACES)
def backend(request: pytest.FixtureRequest):
    """Runs the test with each implementation, on each kind of device that it knows; tensors are made there.

    The reference runs what an implementation does not have.
    """
    name, device = request.param
    if reason := ops.why_not(name):
        pytest.skip(reason)
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    with ops.backend(f"{name},reference"), torch.device(device) if device != "cpu" else nullcontext():
        yield name


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills whatever `torch.empty` and its kin give out with NaN, so that nothing unwritten passes for a result.

    torch remembers from its first device context on which functions make tensors. Were that one in a poisoned test, the true
    `torch.empty` would be none of them in any later test, and a model on the meta device would have parameters on the CPU.
    """
    with torch.device("cpu"):
        torch.zeros(0)

    def poisoned(make):
        def fill(*args, **kwargs):
            made = make(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return fill

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


pytest_plugins = ["quick_interpreter", "tiny_runs", "word_tokenizer"]
