"""What docs/python.md promises to be equal is equal bit for bit, in one process and in another; what it does not promise is not asked."""

import json
import os
import re
import subprocess
import sys

import needs_datasets  # noqa: F401
import pytest
from digests import PREDICTIONS, RUNS, write_base
from places import ROOT

TABLE = re.search(r"^## What changes bits\n(.*?)(?=^## )", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)[1]
EQUAL_RUNS = [("plain", "again"), ("two threads", "two threads, again")]
EQUAL_PREDICTIONS = [("plain", "again"), ("one by one", "one by one, other order")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Digests from two processes whose strings hash differently and whose folders have other names; the second does nothing twice."""
    digests = []
    for seed, left_out in (("1", []), ("2", ["again", "two threads, again", "another seed"])):
        folder = tmp_path_factory.mktemp(f"base{seed}")
        write_base(folder)
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")]),
        }
        helper = str(ROOT / "tests" / "helpers" / "digests.py")
        done = subprocess.run(
            [sys.executable, helper, str(folder), *left_out],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        digests.append(json.loads(done.stdout.splitlines()[-1]))
    return digests


def test_another_process_gives_the_same_bits(found):
    """Each backend, each number of threads and each way to make batches, by itself."""
    first, second = found
    assert {"plain", "two threads", "reference"} <= second["runs"].keys()
    assert second["predictions"].keys() == PREDICTIONS.keys() - {"again"}
    for what, names in second.items():
        assert names == {name: first[what][name] for name in names}


@pytest.mark.parametrize(("one", "other"), EQUAL_RUNS)
def test_runs_that_are_promised_equal(found, one, other):
    assert found[0]["runs"][one] == found[0]["runs"][other]


@pytest.mark.parametrize(("one", "other"), EQUAL_PREDICTIONS)
def test_predictions_that_are_promised_equal(found, one, other):
    assert found[0]["predictions"][one] == found[0]["predictions"][other]


def test_the_digests_tell_runs_apart(found):
    """Else the tests above could not fail: a seed that differs gives other bits."""
    assert found[0]["runs"]["another seed"] != found[0]["runs"]["plain"]


def test_the_table_says_what_is_tested_here():
    rows = [line.split("|") for line in TABLE.splitlines() if line.startswith("|") and "---" not in line][1:]
    promised = {row[2].strip() for row in rows}
    assert promised == {"the same", "not promised"} and len(rows) >= 8
    assert RUNS.keys() >= {name for pair in EQUAL_RUNS for name in pair}
