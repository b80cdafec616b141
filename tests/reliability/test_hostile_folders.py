"""Folders of strangers: whatever they hold, nothing of it runs, no question is asked, nothing is fetched, started or written elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import needs_datasets  # noqa: F401
import pytest
from hostile_folders import NAMES, PAIRS, WAYS, make, save_classifier
from places import ROOT
from tiny_task import write_data

HELPER = ROOT / "tests" / "helpers" / "audited.py"
TRAIN = ["--epochs", "1", "--batch-size", "8", "--density", "0.1", "--select", "magnitude"]
ACCEPTED = ("known type", "known type, upstream", "pickled weights beside", "chat template", "requirements", "custom pipelines")
STDIN = {"yes": "y\n" * 2000, "closed": None}


def commands(folder, data, output):
    """What is done with a folder, by name."""
    return {
        "predict": ["predict", "--model", folder, f"{data}/lines.txt"],
        "export": ["export", "--model", folder, "--output", f"{output}/export"],
        "estimate": ["estimate", "--model", folder, "--length", "8", "--device", "cpu"],
        "train": ["train", "--model", folder, "--train", f"{data}/train.jsonl", "--validation", f"{data}/validation.jsonl",
                  "--output", f"{output}/run", *TRAIN],
    }  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """The folders' commands, and where they may write."""
    root = tmp_path_factory.mktemp("hostile")
    good, output, data = save_classifier(root / "good"), root / "output", root / "data"
    data.mkdir()
    write_data(data, count=24)
    (data / "lines.txt").write_text("my parcel\ny\ny\n")
    found = []
    for number, ways in enumerate([*((way,) for way in WAYS), *PAIRS]):
        folder = make(root / "folders" / str(number), good, *ways)
        known = commands(folder, data, output / folder.name)
        others = [name for name in known if name != "predict"]
        for name, arguments in known.items():  # all read a folder through one door; the ways take turns at what is not predict
            if name == "predict" or (len(ways) == 1 and (name == others[number % 3] or ways[0] in ACCEPTED)):
                case = {
                    "name": f"{' and '.join(ways)}: {name}",
                    "cwd": str(folder),
                    "arguments": [str(item) for item in arguments],
                }
                found.append(case)
    found.append({"name": "doctor", "cwd": str(root / "folders"), "arguments": ["doctor"]})
    return root, found


@pytest.fixture(scope="module", params=STDIN)
def outcomes(request, cases):
    """What every command did with every folder: in one process, whose standard input says yes to all, or is closed."""
    root, found = cases
    if request.param == "closed":  # what is asked there is asked of every command alike, and seen with "yes" too
        found = [case for case in found if case["name"].endswith(("predict", "doctor")) and " and " not in case["name"]]
    place = root / request.param
    (place / "tmp").mkdir(parents=True)
    swapped = json.loads(json.dumps(found).replace(str(root / "output"), str(place / "output")))
    told = {"allowed": [f"{place}/output", f"{place}/tmp"], "hostile": str(root / "folders"), "names": NAMES, "cases": swapped}
    (place / "cases.json").write_text(json.dumps(told))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"TMPDIR": f"{place}/tmp", "HF_HOME": f"{place}/hub", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT),
                    "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # fmt: skip
    command = [sys.executable, str(HELPER), f"{place}/cases.json", f"{place}/result.json"]
    given = {"input": STDIN[request.param], "text": True} if STDIN[request.param] else {"stdin": subprocess.DEVNULL, "text": True}
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, timeout=900, **given)
    assert done.returncode == 0, done.stderr
    return place, json.loads(Path(f"{place}/result.json").read_text())


def test_nothing_of_a_folder_runs(outcomes):
    place, found = outcomes
    assert len(WAYS) + len(PAIRS) >= 100
    assert {name: outcome["seen"] for name, outcome in found.items() if outcome["seen"]} == {}
    assert not list(place.rglob("EVIL_WAS_HERE"))


def test_a_refusal_is_one_line(outcomes):
    _, found = outcomes
    assert {outcome["code"] for outcome in found.values()} == {0, 2}
    said = {name: outcome["err"] for name, outcome in found.items() if outcome["code"]}
    assert {name: err for name, err in said.items() if err.count("\n") > 1 or not err.startswith("error: ")} == {}


@pytest.mark.parametrize("way", ACCEPTED)
def test_what_does_no_harm_is_read(outcomes, way):
    """Code beside a model that transformers has itself is left alone."""
    _, found = outcomes
    codes = [outcome["code"] for name, outcome in found.items() if name.split(":")[0] == way]
    assert codes and set(codes) == {0}
