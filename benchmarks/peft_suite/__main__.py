"""Runs PEFT's own generic tuner tests against `clm_kernels.peft`.

    python -m benchmarks.peft_suite CHECKOUT [-k EXPRESSION] [--output FILE]

CHECKOUT holds PEFT's ``tests`` folder: a git checkout, or the unpacked source that ``pip download --no-deps --no-binary :all:
peft==VERSION`` leaves. Nothing of it is kept. The exit code is that of pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from .theirs import CHECKOUT, CHECKPOINTS

SUITE = Path(__file__).parent / "suite.py"


class Tally:
    """What became of each test."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failed: list[str] = []
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        self.outcomes[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid.partition("::")[2])
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped[f"{report.nodeid.split('::')[-1].partition('[')[0]}: {reason.removeprefix('Skipped: ')}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.peft_suite", description="PEFT's own tuner tests against clm_kernels.peft.")
    parser.add_argument("checkout", type=Path, help="folder that holds PEFT's tests")
    parser.add_argument("-k", dest="expression", default="", help="tests to run, as pytest takes it")
    parser.add_argument("--output", type=Path, help="JSON file for the tally")
    options = parser.parse_args()
    if not (options.checkout / "tests" / "testing_common.py").is_file():
        parser.error(f"checkout must be a folder with PEFT's tests/testing_common.py, got {options.checkout}")
    tally = Tally()
    arguments = [str(SUITE), "-q", "--tb=short", "-p", "no:cacheprovider", "--disable-warnings", "-o", "addopts="]
    arguments += ["-k", options.expression] if options.expression else []
    with tempfile.TemporaryDirectory() as checkpoints:
        os.environ |= {CHECKOUT: str(options.checkout.resolve()), CHECKPOINTS: checkpoints, "HF_HUB_OFFLINE": "1"}
        code = pytest.main(arguments, plugins=[tally])
    report(tally, options.output)
    return int(code)


def report(tally: Tally, output: Path | None) -> None:
    from .suite import LEFT

    left = {name: tests for name, tests in LEFT.items() if tests}
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items())))
    print("\n".join(f"failed: {name}" for name in tally.failed))
    print("\n".join(f"skipped {count} x {reason}" for reason, count in sorted(tally.skipped.items())))
    for (name, reason), count in sorted(
        Counter((name, reason) for name, tests in left.items() for reason in tests.values()).items()
    ):
        print(f"not run {count} of {name}: {reason}")
    if output:
        found = {"outcomes": tally.outcomes, "failed": tally.failed, "skipped": tally.skipped, "not run": left}
        output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
