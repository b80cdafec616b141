"""What ``--benchmark-json`` keeps beside the times: the machine as `clm-kernels bench --output` describes it."""

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json):
    from .test_micro import DEVICE, machine

    output_json["machine"] = machine().described(DEVICE)
