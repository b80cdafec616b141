"""The long form of these tests: runs that are killed, stopped, starved of disk and disturbed, at moments drawn from a seed.

    PYTHONPATH=.:tests/helpers python tests/reliability/kill.py --seed 0 --seconds 300

Prints how many of each kind were tried, and ends with 1 at the first that lost more than an interval, left something else than the run
without a break, or failed in another line than ours. Each kind stops at its number; without time for all, each gets its share.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from forked import forked, kill_myself, start
from interruption import stop
from safetensors.torch import load_file
from tiny_runs import FAST, silent, trained_tensors
from tiny_task import save_model, write_data
from transformers import TrainerCallback

from clm_kernels.finetune import TrainConfig, fitting, train
from clm_kernels.finetune.checkpoints import last_checkpoint, usable_checkpoint
from clm_kernels.finetune.outputs import beside
from clm_kernels.finetune.trainer import RunTrainer

INTERVAL, STEPS = 3, 18  # a checkpoint every so many steps, and the steps of a run
VARIANTS = {
    "plain": {},
    "accumulation": {"gradient_accumulation": 2, "epochs": 6},
    "no clipping": {"max_grad_norm": 0.0},
    "bf16": {"dtype": "bfloat16", "precision": "bf16"},
    "replay": {"replay": True, "layers": "upper half"},
    "skipped examples": {"skip": 0.3},
    "active tokens": {"energy": "0.9"},
    "full": {"method": "full"},
}


class Lost(Exception):
    """What must not happen."""


class Trials:
    """One of each kind; all begin with a new folder in `place`."""

    def __init__(self, place: Path, seed: int):
        self.place, self.draw, self.count = place, random.Random(seed), Counter()
        options = {"model": save_model(place / "model"), **write_data(place), **FAST, "select": "random", "eval_steps": INTERVAL}
        self.config = TrainConfig(**options, keep_checkpoints=True)
        self.whole = {}
        began = time.perf_counter()
        self.expected("plain")
        self.seconds = time.perf_counter() - began

    def expected(self, variant: str) -> Path:
        """Where the run without a break lies."""
        if variant not in self.whole:
            output = self.place / f"whole {variant}"
            train(replace(self.config, **VARIANTS[variant], output=str(output)), silent)
            self.whole[variant] = output
        return self.whole[variant]

    def same(self, output: Path, variant: str = "plain") -> None:
        """Weights, and the moments and masters of the last checkpoint, bit by bit."""
        expected = self.expected(variant)
        for read in (weights_of, moments_of):
            if not equal(read(output), read(expected)):
                raise Lost(f"{read.__name__} of {output} are others than without a break")

    def go_on(self, output: Path, variant: str = "plain", done: int = 0) -> None:
        """Resumes, or starts anew where there is nothing to resume from; `done` steps had ended."""
        last, _ = usable_checkpoint(output / "checkpoints", beside(output), silent)
        lost = done - (int(last.name.rpartition("-")[2]) if last else 0)
        if lost > INTERVAL:
            raise Lost(f"{lost} steps of {output}")
        if not (output / "report.json").exists():
            again = {"resume": True} if last else {"overwrite": True}
            train(replace(self.config, **VARIANTS[variant], **again, output=str(output)), silent)
        self.same(output, variant)

    def kill_anywhere(self, output: Path) -> None:
        child = start(self.watched, output)
        time.sleep(self.draw.random() * self.seconds * 1.2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.go_on(output, done=steps_of(output))

    def kill_in_a_save(self, output: Path) -> None:
        which, delay = self.draw.randrange(1, STEPS // INTERVAL + 1), self.draw.random() * 0.06
        forked(self.killed_in_save, output, which, delay)
        self.go_on(output, done=steps_of(output))

    def killed_in_save(self, output: Path, which: int, delay: float) -> None:
        save, saves = RunTrainer._save_checkpoint, []

        def timed(trainer, *args, **kwargs):
            saves.append(1)
            if len(saves) == which:
                threading.Timer(delay, kill_myself).start()
            return save(trainer, *args, **kwargs)

        RunTrainer._save_checkpoint = timed
        self.watched(output)

    def terminate(self, output: Path) -> None:
        number = self.draw.choice([signal.SIGTERM, signal.SIGHUP])
        child = start(self.watched, output)
        time.sleep(self.draw.random() * self.seconds)
        os.kill(child, number)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, 128 + number, -number):  # the last: before the run has begun
            raise Lost(f"exit code {code}")
        done, last = steps_of(output), last_checkpoint(output / "checkpoints")
        if code == 128 + number and done and (last is None or last.name != f"checkpoint-{done}"):
            raise Lost(f"after {number} at step {done}: {last}")
        self.go_on(output, done=done) if (output / "run.json").exists() else None

    def watched(self, output: Path) -> None:
        """A run that writes down each step that has ended, first of all callbacks."""
        told = output.with_suffix(".steps")

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                told.write_text(str(state.global_step))

        made = fitting.Progress
        fitting.Progress = lambda *given: type("Watched", (Watch, made), {})(*given)
        train(replace(self.config, output=str(output)), silent)

    def stop_point(self, output: Path) -> None:
        variant = list(VARIANTS)[self.count["stop_point"] % len(VARIANTS)]
        config = replace(self.config, **VARIANTS[variant], output=str(output))
        stop(config, self.draw.randrange(1, STEPS * config.training.gradient_accumulation))
        self.go_on(output, variant)

    def small_disk(self, output: Path) -> None:
        """A disk on which all, some or none of what a run leaves has room; what it leaves goes on elsewhere."""
        size = self.draw.randrange(8, 800) << 10
        disk = output.with_suffix(".disk")
        disk.mkdir()
        mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True
        ).returncode
        try:
            code = forked(full_disk, replace(self.config, output=str(disk / "o")), None if mounted else size)
            self.count[f"small_disk: {('ended well', 'our line')[code]}" if code in (0, 1) else "small_disk: another line"] += 1
            if code not in (0, 1):
                raise Lost("an error of another kind on a full disk")
            if (disk / "o").exists():
                shutil.copytree(disk / "o", output)
        finally:
            if mounted:
                subprocess.run(["umount", disk], check=True)
        if output.exists():
            self.go_on(output)

    def two_writers(self, output: Path) -> None:
        one, other = (replace(self.config, output=str(output), seed=seed) for seed in (42, 43))
        first = start(train, one, silent)
        time.sleep(self.draw.random() * self.seconds)
        second = forked(refused_or_first, other)
        code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        if sorted((code, second)) != [0, 1]:
            raise Lost(f"two writers ended with {code} and {second}")
        if code == 0:
            self.same(output)


def weights_of(output: Path) -> dict:
    path = output / "delta.safetensors"
    return trained_tensors(output) if path.exists() else load_file(output / "model.safetensors")


def moments_of(output: Path) -> dict:
    last = last_checkpoint(output / "checkpoints")
    return torch.load(last / "optimizer.pt", weights_only=True)["state"]


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def steps_of(output: Path) -> int:
    told = output.with_suffix(".steps")
    return int(told.read_text() or 0) if told.exists() else 0


def full_disk(config: TrainConfig, limit: int | None) -> None:
    """Ends with 0, with 1 after our line, else with 2."""
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit // 4, limit // 4))
    try:
        train(config, silent)
    except (RuntimeError, ValueError) as error:
        os._exit(1 if str(error).startswith("train: output must be a folder ") else 2)
    except BaseException:
        os._exit(2)


def refused_or_first(config: TrainConfig) -> None:
    """Ends with 1 after our line, as where the first has ended already."""
    try:
        train(config, silent)
    except ValueError as error:
        os._exit(1 if "held by process" in str(error) or "new or empty" in str(error) else 2)


KINDS = {"kill_anywhere": 100, "kill_in_a_save": 100, "terminate": 50, "stop_point": 50, "small_disk": 20, "two_writers": 10}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    deadline = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as place:
        trials = Trials(Path(place), given.seed)
        while time.monotonic() < deadline:
            left = [kind for kind in KINDS if trials.count[kind] < KINDS[kind]]
            if not left:
                break
            kind = min(left, key=lambda kind: trials.count[kind] / KINDS[kind])
            trials.count[kind] += 1
            output = Path(place) / f"{kind} {trials.count[kind]}"
            try:
                getattr(trials, kind)(output)
            except Exception as error:
                print(f"{kind} {trials.count[kind]} with seed {given.seed}: {type(error).__name__}: {error}")
                return 1
            shutil.rmtree(output, ignore_errors=True)
    print(dict(trials.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
