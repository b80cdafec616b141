"""What can happen to a run's files, and how a run goes on then."""

import random
import shutil

import torch
from tiny_runs import trained_tensors

from clm_kernels.finetune import TrainConfig, train


def delete(path, other):
    path.unlink()


def truncate(path, other):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, other):
    """One bit, of those that say something in every format: the middle one."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << random.Random(path.name).randrange(8)
    path.write_bytes(content)


def exchange(path, other):
    shutil.copyfile(other, path)


DAMAGES = (delete, truncate, flip, exchange)


def going_on(output, expected, **options):
    """How `--resume` ends: "refused", "said", "silent", or "silent, other weights"; and the lines that it said.

    Args:
        expected: tensors of the run without a break.
    """
    lines = []
    try:
        report = train(TrainConfig(output=str(output), resume=True, **options), lines.append)
    except (ValueError, RuntimeError) as error:
        assert "\n" not in str(error) and str(error).startswith("train: "), error
        return "refused", [str(error)]
    found = trained_tensors(output)
    same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    said = any("passed over" in line or "may differ" in line for line in lines)
    assert report.best["step"] > 0
    return ("said" if said else "silent") + ("" if same else ", other weights"), lines
