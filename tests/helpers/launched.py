"""`clm-kernels` in several processes at once, as a launcher would start them, but forked from one that has imported all already."""

import gc
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import forked
import torch.distributed as dist
from places import ROOT

DEADLINE = 150  # seconds after which whoever is still there has hung


@dataclass
class Launch:
    """So many processes that run one command together.

    Attributes:
        options: of ``clm-kernels train``, by name.
        others: rank -> options that are others there.
        stopped: rank -> the step before which it gets a signal, and that signal's number.
        patience: seconds until a silent process is taken for gone, if not as long as usual.
        environment: what else each finds there.
    """

    name: str
    options: dict
    processes: int = 2
    others: dict = field(default_factory=dict)
    stopped: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    patience: float = 0.0


@dataclass
class Ended:
    """What came of it, by rank: exit codes (minus a signal's number), and what was said."""

    codes: list[int]
    stdout: list[str]
    stderr: list[str]


def launched(folder: Path, launches: list[Launch]) -> dict[str, Ended]:
    """Runs one after the other; their words and exit codes by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "launches.json").write_text(json.dumps([vars(launch) for launch in launches], default=str))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, __file__, str(folder)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return {name: Ended(**told) for name, told in json.loads((folder / "ended.json").read_text()).items()}


def arguments(options: dict) -> list[str]:
    """As the command line has them; False leaves a switch out."""
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items() if value is not False}
    return [part for name, value in given.items() for part in ([name] if value is True else [name, str(value)])]


def _run(folder: Path, launch: Launch) -> Ended:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    files = [folder / f"{launch.name}-{rank}" for rank in range(launch.processes)]
    children = [_start(file, launch, rank, store.port) for rank, file in enumerate(files)]
    held = sum(number == signal.SIGSTOP for _, number in launch.stopped.values())
    codes = forked.ended(children, DEADLINE, held)
    said = ([file.with_suffix(end).read_text() for file in files] for end in (".out", ".err"))
    return Ended(codes, *said)


def _start(file: Path, launch: Launch, rank: int, port: int) -> int:
    sys.stdout.flush(), sys.stderr.flush()
    if child := os.fork():
        return child
    for stream, end in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(file.with_suffix(end), os.O_WRONLY | os.O_CREAT), stream)
    if launch.processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(launch.processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(launch.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    os.environ |= launch.environment
    if str(rank) in launch.stopped:
        _stop_before(*launch.stopped[str(rank)])
    from clm_kernels.cli import main
    from clm_kernels.finetune.processes import pulse

    if launch.patience:
        pulse.PATIENCE = pulse.GRACE = launch.patience
    sys.argv = ["clm-kernels", "train", *arguments(launch.options | launch.others.get(str(rank), {}))]
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _stop_before(step: int, number: int) -> None:
    from clm_kernels.finetune.trainer import RunTrainer

    train = RunTrainer.training_step

    def stopping(trainer, *given, **named):
        if trainer.state.global_step == step:
            os.kill(os.getpid(), number)
        return train(trainer, *given, **named)

    RunTrainer.training_step = stopping


if __name__ == "__main__":
    import datasets  # noqa: F401
    import peft  # noqa: F401
    from transformers import AutoModelForSequenceClassification, Trainer  # noqa: F401

    import clm_kernels.finetune.recipe  # noqa: F401

    gc.freeze()  # what is imported is neither looked through nor copied by each process that comes of this one
    where = Path(sys.argv[1])
    ended = {it["name"]: vars(_run(where, Launch(**it))) for it in json.loads((where / "launches.json").read_text())}
    (where / "ended.json").write_text(json.dumps(ended))
