"""`torchrun clm-kernels train`: two processes that leave, say and count what one process does."""

import json
import os
import subprocess
import sys

import needs_datasets  # noqa: F401
import pytest
import torch
import torch.distributed as dist
from places import ROOT
from tiny_runs import silent, trained_tensors
from tiny_task import save_model, without_dropout, write_data

from clm_kernels.finetune import TrainConfig, train

PROCESSES, EXAMPLES, EPOCHS = 2, 48, 6
OPTIONS = {"batch_size": EXAMPLES // PROCESSES, "epochs": EPOCHS, "learning_rate": 0.01, "pooling": "mean"}
OPTIONS |= {"warmup": 0.0, "scheduler": "constant", "skip": 0.2}
PROGRAM = """
import os
from clm_kernels.cli import main
try:
    main()
except SystemExit as ended:
    open(os.path.join(os.environ["ENDED"], os.environ["RANK"]), "w").write(str(ended.code))
    raise
"""


def torchrun(folder, options):
    """Trains through the command line; each process leaves its exit code in a file named after its rank."""
    launcher = ["--standalone", "--nproc-per-node", PROCESSES, "--log-dir", folder / "logs", "--redirects", 3, "--no-python"]
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    arguments = [sys.executable, "-m", "torch.distributed.run", *launcher, sys.executable, "-c", PROGRAM, "train", *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "ENDED": str(folder)}
    return subprocess.run([*map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder in which two processes have left `two`, and one process `one`."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs torch.distributed with gloo")
    folder = tmp_path_factory.mktemp("torchrun")
    options = {"model": save_model(folder / "model"), **write_data(folder, count=EXAMPLES), **OPTIONS}
    without_dropout(folder / "model")
    two = torchrun(folder, options | {"output": folder / "two"})
    ended = {rank: (folder / str(rank)).read_text() for rank in range(PROCESSES) if (folder / str(rank)).exists()}
    train(TrainConfig(**options, output=str(folder / "one"), gradient_accumulation=PROCESSES), silent)
    (logs,) = (folder / "logs").glob("*/attempt_0")
    said = [{stream: (logs / f"{rank}/{stream}.log").read_text() for stream in ("stdout", "stderr")} for rank in range(PROCESSES)]
    return folder, two, ended, said


def test_every_process_ends_well(runs):
    _, two, ended, said = runs
    assert two.returncode == 0, f"{two.stderr}\n{said}"
    assert ended == {0: "0", 1: "0"}


def test_process_0_alone_speaks(runs):
    *_, (first, second) = runs
    assert first["stdout"].count("try it: clm-kernels predict") == 1 and first["stdout"].count("trained") == 1
    lines = [line for line in first["stderr"].splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 * EPOCHS - 1 and sum("the others skipped" in line for line in lines) == EPOCHS - 1
    assert second["stdout"] == ""
    assert [line for line in second["stderr"].splitlines() if "reducer.cpp" not in line] == []  # DDP's own warning, of each


def test_two_processes_leave_what_one_does(runs):
    """Each takes half of the examples in every step, as one process does that accumulates two batches.

    A key's bias, whose gradient is 0 but for rounding, is what differs most: by 6e-6 where all else has moved by 0.06.
    """
    folder = runs[0]
    assert {path.name for path in (folder / "two").iterdir()} == {path.name for path in (folder / "one").iterdir()}
    two, one = (json.loads((folder / name / "report.json").read_text()) for name in ("two", "one"))
    assert two["selection"] == one["selection"] and two["sizes"].keys() == one["sizes"].keys()
    assert [line["accuracy"] for line in two["history"]] == [line["accuracy"] for line in one["history"]]
    assert two["examples"] == one["examples"] and two["examples"][-1]["examples"] < 1
    assert two["best"]["step"] == one["best"]["step"] and two["test"]["accuracy"] == one["test"]["accuracy"]
    torch.testing.assert_close(trained_tensors(folder / "two"), trained_tensors(folder / "one"), rtol=0, atol=1e-4)
    for loss in ("train_loss", "loss"):
        many, few = ([line[loss] for line in report["history"]] for report in (two, one))
        assert many == pytest.approx(few, abs=1e-4) and many[-1] < many[0] - 0.1
    assert two["best"]["step"] > 2  # so that what is compared has seen several steps
