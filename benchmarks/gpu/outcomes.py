"""A pytest plugin, ``-p benchmarks.gpu.outcomes --outcomes kernels.json``: how the tests went, written while they run.

A run that is cut off leaves what has passed, what has failed and why, and which tests it was in.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from ..common import machine, write
from .scale import line

ROWS = {"kernels": "of the CUDA kernels", "ops": "of every op", "models": "of models"}
EVERY = 2.0  # seconds between two writes
LONGEST = 4000  # characters of one failure


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="JSON file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--outcomes")
    if path and not hasattr(config, "workerinput"):  # of xdist's processes only the one that gathers
        config.pluginmanager.register(Outcomes(path), "outcomes")


class Outcomes:
    def __init__(self, path: Path):
        self.path, self.written = path, 0.0
        self.collected, self.counts, self.failures, self.running = 0, Counter(), {}, set()
        self.machine = machine("cuda" if torch.cuda.is_available() else "cpu")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = max(self.collected, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        self.collected = max(self.collected, len(ids))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running.add(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failures[f"{report.nodeid} ({report.when})"] = str(report.longrepr)[-LONGEST:]
        if report.failed or report.skipped or report.when == "call":
            self.counts[report.outcome] += 1

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.discard(nodeid)
        if time.monotonic() - self.written > EVERY:
            self.write()

    def pytest_sessionfinish(self) -> None:
        self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        what = f"GPU tests {ROWS[self.path.stem]}: not passed"
        rows = []
        if self.counts["passed"] + self.counts["failed"]:  # where all skip nothing is known
            rows.append(line(what, self.collected - self.counts["passed"] - self.counts["skipped"]))
        stored = {"machine": self.machine, "rows": rows, "collected": self.collected, **self.counts}
        write(self.path, stored | {"running": sorted(self.running), "failures": self.failures})
