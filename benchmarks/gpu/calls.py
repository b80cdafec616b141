"""``benchmarks/run_gpu.sh contact|numbers|training``: the parts of one call, each cut off at its limit, in one archive.

Each call stands alone. It needs nothing but Python to start, so that it brings home what it has whatever fails.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .archive import pack

ROOT = Path(__file__).parent.parent.parent
PYTEST = ("pytest", "-p", "benchmarks.gpu.outcomes", "-o", "faulthandler_timeout=60", "-m", "gpu", "-rfEs", "--tb=short")
SHARE = 0.9  # of a call's limit that its parts may take; the rest is for starting, ending and what does not end at once
LOOK = 5.0  # seconds between two archives while a part runs
SKIPPED, NO_TESTS = 77, 5  # exit codes; the second is pytest's
CORES = os.cpu_count() or 1
WORKERS = min(12, CORES) if CORES >= 4 else 0  # of pytest; each imports all anew, which two cores do no faster


@dataclass(frozen=True)
class Part:
    """A Python module with its arguments, which writes ``<name>.json`` as soon as it has some of it."""

    name: str
    module: tuple[str, ...]
    seconds: int  # at most

    def command(self, work: Path) -> list[str]:
        report = ["--outcomes", work / f"{self.name}.json"] if "pytest" in self.module else ["--output", work]
        return [sys.executable, "-m", *map(str, [*self.module, *report])]


@dataclass(frozen=True)
class Call:
    """What `run_gpu.sh` is asked for: parts in this order, and the seconds within which all has ended."""

    seconds: int
    parts: tuple[Part, ...]


def tests(name: str, files: tuple[str, ...], seconds: int) -> Part:
    return Part(name, (*PYTEST, "-n", str(WORKERS), *files), seconds)


def ours(name: str, seconds: int) -> Part:
    return Part(name, (f"benchmarks.gpu.{name}",), seconds)


OPS = ("ops", "adamw_step", "op_errors", "fisher", "grouped", "memory_safety", "memory_safety_backward")
CALLS = {
    "contact": Call(300, (
        ours("machine", 100),
        tests("kernels", ("tests/ops/test_cuda.py",), 70),
        tests("ops", tuple(f"tests/ops/test_{name}.py" for name in OPS), 130),
        tests("models", ("tests/patching/test_patch.py",), 40),
        ours("tokens", 40),
        ours("sanitize", 90),
    )),
    "numbers": Call(170, (
        ours("machine", 60), ours("adamw", 60), ours("launch", 30), ours("products", 50), ours("tokens", 40),
        Part("sweep", ("benchmarks.gpu.sweep",), 60),
    )),
    "training": Call(150, (ours("machine", 60), ours("step", 60), ours("llama", 80))),
}  # fmt: skip


def run(name: str, call: Call, work: Path, out: Path, say: Callable[[str], None] = print) -> dict[str, object]:
    """Runs the parts one after the other and returns how each went. ``<name>.json`` and ``<name>.tar.gz`` stand in `out`
    from the first part on, anew every few seconds."""
    deadline = time.monotonic() + SHARE * call.seconds
    summary: dict[str, object] = {"call": name, "gpu": None, "parts": {}}

    def keep() -> None:
        summary["left out of the archive"] = pack(work, out / f"{name}.tar.gz")
        whole = out / f"{name}.json.part"
        whole.write_text(json.dumps(summary, indent=1) + "\n")
        whole.replace(out / f"{name}.json")

    out.mkdir(parents=True, exist_ok=True)
    for part in call.parts:
        limit = min(part.seconds, deadline - time.monotonic())
        summary["parts"][part.name] = how = run_part(part, limit, work, keep)
        say(f"{part.name}: {how['outcome']}, {how['seconds']:.0f} s")
        if how["outcome"] != "done":
            say("".join(f"  {line}\n" for line in tail(work / f"{part.name}.log")).rstrip())
        if part.name == "machine":
            summary["gpu"] = gpu = gpu_of(work / "machine.json")
            say(f"GPU: {gpu}" if gpu else "no GPU: tests are collected and skip, numbers are a dry run over small shapes")
        keep()
    return summary


def run_part(part: Part, limit: float, work: Path, keep: Callable[[], None]) -> dict[str, object]:
    """Its outcome: done, failed, skipped, cut off, or not begun for want of time; exit code and seconds."""
    if limit < LOOK:
        return {"outcome": "not begun: the call's time is spent", "seconds": 0.0}
    start = time.monotonic()
    with (work / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(
            part.command(work), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and (left := start + limit - time.monotonic()) > 0:
            try:
                process.wait(min(LOOK, left))
            except subprocess.TimeoutExpired:
                keep()
        ended = process.poll()
        if ended is None:
            stop(process)
    outcome = {None: f"cut off after {limit:.0f} s", 0: "done", SKIPPED: "skipped", NO_TESTS: "skipped"}.get(ended, "failed")
    return {"outcome": outcome, "exit": ended, "seconds": round(time.monotonic() - start, 1)}


def stop(process: subprocess.Popen) -> None:
    """First so that Python's fault handler says where it hangs, then for good, with all that it started."""
    for send in (lambda: process.send_signal(signal.SIGABRT), lambda: os.killpg(process.pid, signal.SIGKILL)):
        try:
            send()
            process.wait(1)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def tail(path: Path, lines: int = 25) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-lines:] if path.is_file() else []


def gpu_of(path: Path) -> str | None:
    return json.loads(path.read_text()).get("gpu") if path.is_file() else None


def main() -> int:
    given = sys.argv[1:]
    if len(given) != 1 or given[0] not in CALLS:
        print(f"run_gpu.sh: the call must be one of {', '.join(CALLS)}, got {' '.join(given) or 'nothing'}", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ |= {"PYTHONFAULTHANDLER": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu" / "out")
    with tempfile.TemporaryDirectory() as work:
        summary = run(given[0], CALLS[given[0]], Path(work), out)
    print(f"{out / given[0]}.tar.gz holds every log and number, {out / given[0]}.json how the parts went")
    return int(any(how["outcome"] not in ("done", "skipped") for how in summary["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
