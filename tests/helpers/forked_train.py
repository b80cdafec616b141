"""`clm-kernels train` in several processes, forked from one that has imported all already, as torchrun would start them."""

import os
import socket
import sys

import torch
from forked import kill_myself, start


def train_in(folder, processes, options, dies_before=None):
    """Exit codes (minus a signal's number), and what each said; `dies_before` is a step that no process reaches."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = [[f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])] for name, value in options.items()]
    arguments = ["clm-kernels", "train", *(part for pair in given for part in pair)]
    children = [start(_run, rank, launched, folder, arguments, dies_before) for rank in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return codes, ["".join((folder / f"{rank}.{end}").read_text() for end in ("out", "err")) for rank in range(processes)]


def _run(rank, launched, folder, arguments, dies_before):
    torch.set_num_threads(1)
    os.environ |= launched | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    for stream, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{end}", os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))  # pytest's are its own
    sys.argv = arguments
    if dies_before is not None:
        _die_before(dies_before)
    from clm_kernels.cli import main

    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(ended.code or 0)


def _die_before(step):
    from clm_kernels.finetune.trainer import RunTrainer

    train = RunTrainer.training_step

    def dying(trainer, *given, **named):
        if trainer.state.global_step == step:
            kill_myself()
        return train(trainer, *given, **named)

    RunTrainer.training_step = dying
