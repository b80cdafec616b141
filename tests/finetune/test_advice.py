"""What is said of a machine that lacks what was asked for."""

from dataclasses import replace

import needs_datasets  # noqa: F401  # isort: split
import pytest
import torch
from tiny_runs import base  # noqa: F401

from clm_kernels.finetune import TrainConfig, advice, train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("machine", "avx512", "amx", "onednn", "has"),
    [
        ("x86_64", 0, 0, 1, False),
        ("AMD64", 1, 0, 1, True),
        ("x86_64", 0, 1, 1, True),
        ("aarch64", 0, 0, 0, False),
        ("arm64", 0, 0, 1, True),
    ],
)
def test_who_has_bfloat16(monkeypatch, machine, avx512, amx, onednn, has):
    monkeypatch.setattr(advice.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bool(onednn))
    assert advice.has_bfloat16() == has


def test_a_cpu_without_bfloat16_is_said_to_be_slow(monkeypatch):
    monkeypatch.setattr(advice, "has_bfloat16", lambda: False)
    for options, told in (
        ({"precision": "bf16"}, "--precision bf16: this CPU ("),
        ({"dtype": "bfloat16"}, "--dtype bfloat16: this CPU ("),
    ):
        assert advice.slow_on_this_cpu(TrainConfig(**options), CPU).startswith(told)
        assert advice.slow_on_this_cpu(TrainConfig(**options), torch.device("cuda")) == ""
    assert advice.slow_on_this_cpu(TrainConfig(), CPU) == ""
    monkeypatch.setattr(advice, "has_bfloat16", lambda: True)
    assert advice.slow_on_this_cpu(TrainConfig(precision="bf16"), CPU) == ""


def test_train_says_it_once_and_goes_on(base, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(advice, "has_bfloat16", lambda: False)
    said = []
    train(replace(base, select="random", epochs=1, precision="bf16", output=str(tmp_path / "o")), said.append)
    assert sum("has no instructions for it" in line for line in said) == 1 and (tmp_path / "o" / "report.json").exists()
