"""The service under load beside the bare model: two tasks on MiniLM, 200 connections for a minute.

    python -m benchmarks.service --output benchmarks/results/serving

The service runs as a user starts it. The bare model is one of the two tasks' classifiers, merged, in this process, which predicts
batches of as many texts; it runs before and after the service, for as long. The client shares the machine with the service: what
it costs is told. The deltas hold random values at 10 % of the entries; nothing is trained.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import datasets
import numpy as np
import transformers

from clm_kernels import Classifier
from clm_kernels.demo import model_directory

from .common import machine, row, write
from .load import Answers, load, requests
from .serving import random_delta, texts

TASKS = {"intents": 77, "topics": 5}  # name -> labels
READY = "serving at http://127.0.0.1:"


class Speed(NamedTuple):
    """Texts a second, and milliseconds of processor time a text, which others on the machine do not stop."""

    texts: float
    processor: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/serving"))
    parser.add_argument("--model", type=Path, help="base model; MiniLM, as the demo has it, by default")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the service, and of the bare model before and after it")
    parser.add_argument("--batch", type=int, default=64, help="texts of a batch, of the service and of the bare model")
    parser.add_argument("--texts", type=int, nargs="+", default=[1], help="texts of a request, one run for each")
    asked = parser.parse_args(arguments)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    base = asked.model or model_directory()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.safetensors" for name in TASKS}
        for seed, (name, labels) in enumerate(TASKS.items()):
            random_delta("all", labels, seed, base).save(files[name])
        model = Classifier.load(base, files["intents"])
        bare(model, asked.batch, asked.seconds / 10)
        with served(base, files, asked.batch) as (process, port):
            asyncio.run(load(port, requests(texts(512), list(TASKS), 1), 1, asked.connections, asked.seconds / 10))
            speeds = [bare(model, asked.batch, asked.seconds)]
            for each in asked.texts:
                before = counted(process, port)
                answers = asyncio.run(load(port, requests(texts(512), list(TASKS), each), each, asked.connections, asked.seconds))
                spent = {name: value - before[name] for name, value in counted(process, port).items()}
                speeds.append(bare(model, asked.batch, asked.seconds))
                rows += told(answers, each, asked.connections, speeds[-2:], spent)
    write(asked.output / "service.json", {"machine": machine(), "rows": rows})
    (asked.output / "service.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def bare(model: Classifier, batch: int, seconds: float) -> Speed:
    """Of a classifier that predicts one batch after the other."""
    some, done, began, processor = texts(512), 0, perf_counter(), process_time()
    while (lasted := perf_counter() - began) < seconds or not done:
        begin = done % (len(some) - batch + 1)
        list(model.predict(some[begin : begin + batch], batch_size=batch))
        done += batch
    return Speed(done / lasted, 1e3 * (process_time() - processor) / done)


@contextmanager
def served(base: Path, files: dict[str, Path], batch: int) -> Iterator[tuple[subprocess.Popen, int]]:
    """``clm-kernels serve`` as a process, and its port; it ends by SIGTERM."""
    tasks = [word for name, file in files.items() for word in ("--task", f"{name}={file}")]
    command = [sys.executable, "-m", "clm_kernels", "serve", "--model", str(base), *tasks, "--port", "0", "--batch", str(batch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            told = next((line for line in lines if line.startswith(READY)), "")
            if not told:
                raise RuntimeError("benchmarks.service: the service must start, got an end of its output")
            yield process, int(told.removeprefix(READY))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def counted(process: subprocess.Popen, port: int) -> dict[str, float]:
    """Processor seconds of the service, and its batches and their texts so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return {
        "processor": processor_seconds(f"/proc/{process.pid}/stat"),
        "event_loop": processor_seconds(f"/proc/{process.pid}/task/{process.pid}/stat"),  # the main thread
        "batches": float(lines["clm_batch_texts_count"]),
        "texts": float(lines["clm_batch_texts_sum"]),
    }


def processor_seconds(stat: str) -> float:
    times = Path(stat).read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def told(answers: Answers, each: int, connections: int, speeds: Sequence[Speed], spent: dict[str, float]) -> list[dict[str, Any]]:
    """The rows of one run of the service, with as many texts in each request."""
    count, alone = len(answers.seconds), sum(one.texts for one in speeds) / len(speeds)
    answered, processor = max(1, count * each), sum(one.processor for one in speeds) / len(speeds)
    speed = (count - answers.wrong) * each / answers.lasted
    half, most = 1e3 * np.percentile(answers.seconds, [50, 99]) if count else (float("nan"), float("nan"))
    many = f"{connections} connections, {each} {'text' if each == 1 else 'texts'} a request"
    details = {
        "requests": count, "seconds": answers.lasted, "texts_a_second": speed, "bare": [one.texts for one in speeds],
        "mean_batch": spent["texts"] / max(1.0, spent["batches"]), "client_processor_seconds": answers.processor,
        "service_processor_seconds": spent["processor"],
    }  # fmt: skip
    return [
        row(f"{many}: texts a second beside the bare model's", speed / alone, ">= 0.9", speed / alone >= 0.9, **details),
        row(f"{many}: errors of {count:,} requests", answers.wrong, "0", not answers.wrong),
        row(f"{many}: texts a second", speed, "", True),
        row(f"{many}: latency p50, ms", half, "", True),
        row(f"{many}: latency p99, ms", most, "", True),
        row(f"{many}: texts in a batch, mean", details["mean_batch"], "", True),
        row(f"{many}: the bare model's processor time, ms a text", processor, "", True),
        row(f"{many}: the service's processor time, ms a text", 1e3 * spent["processor"] / answered, "", True),
        row(f"{many}: of it the event loop's, ms a text", 1e3 * spent["event_loop"] / answered, "", True),
        row(f"{many}: the client's processor time, ms a text", 1e3 * answers.processor / answered, "", True),
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| what | measured | reach |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['measured']:g} | {row['reach']} |" for row in rows]
    return "\n".join([*lines, "", "Client and service on one machine; wall time; the bare model before and after.", ""])


if __name__ == "__main__":
    main()
