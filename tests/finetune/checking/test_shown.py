"""Findings as lines for people."""

import json
import os
from pathlib import Path

import needs_datasets  # noqa: F401
import pytest
from checks import checked, clean, files
from places import ROOT

from clm_kernels.finetune.checking.checked import check_corpus, check_files
from clm_kernels.finetune.checking.finding import Finding, Place
from clm_kernels.finetune.checking.shown import left_out_line, one_line, percent, placed
from clm_kernels.finetune.config import Data
from clm_kernels.finetune.data import load_data

DATA = Path(os.environ.get("CLM_KERNELS_DATA", ROOT.parent / "shared" / "data"))


def test_places_are_joined_by_file():
    places = [Place("/d/train.jsonl", "line 3"), Place("/d/train.jsonl", "line 8"), Place("/d/test.jsonl", "line 1")]
    assert placed(places) == "train.jsonl line 3, line 8; test.jsonl line 1"
    assert placed([Place("a/x.csv", "line 1"), Place("b/x.csv", "line 2")]) == "a/x.csv line 1; b/x.csv line 2"


def test_percent():
    assert [percent(share) for share in (0, 0.0001, 0.001, 0.5)] == ["0.0%", "<0.1%", "0.1%", "50.0%"]


def test_one_line_is_the_worst(tmp_path):
    rows = clean("train")
    assert one_line(checked(tmp_path, train=rows)) is None
    notes = [*clean("train", 300), rows[0]]
    assert checked(tmp_path, train=notes).findings and one_line(checked(tmp_path, train=notes)) is None
    rows += [{"text": "nan", "label": "a\x1b"}, {"text": "x", "label": "c"}, rows[0]]
    line = one_line(checked(tmp_path, train=rows))
    assert line == (
        "data: warning: 1 of 63 texts is 'nan', 'null', 'none' or the like, first train.jsonl line 61; 2 more (`clm-kernels check`)"
    )
    (tmp_path / "b").mkdir()
    line = one_line(checked(tmp_path, train=clean("train"), test=[{"text": "x", "label": "c\x1b[31m"}]))
    assert "\x1b" not in line and line.startswith("data: error: 1 of 1 texts of test has a label that train lacks: 'c\\x1b[31m'")


def test_what_was_left_out():
    record = {"task": "sequence", "labels": 2, "train": {"path": "a.csv", "left_out": {"rows": 4, "first": ["line 2", "line 3"]}}}
    line = "rows left out, as they cannot be read: 4 of a.csv (line 2, line 3, …); scores are of the others"
    assert left_out_line(record) == line
    assert left_out_line({"train": {"path": "a.csv", "left_out": {"rows": 0, "first": []}}}) is None
    assert left_out_line({"train": {"path": "a.csv"}}) is None


def test_a_run_finds_what_the_command_finds(tmp_path):
    """In what it has read, and so without bad rows."""
    rows = {part: clean(part) for part in ("train", "validation", "test")}
    rows["test"][3] = rows["train"][4]
    rows["train"][5] |= {"text": "NaN"}
    data = files(tmp_path, **rows)
    assert check_corpus(load_data(data, 0)).findings == check_files(data).findings != []


def test_a_carved_part_is_checked_too(tmp_path):
    data = files(tmp_path, train=[{"text": f"text {i % 30}", "label": "ab"[i % 2]} for i in range(60)])
    findings = {finding.code: finding for finding in check_corpus(load_data(data, 0)).findings}
    assert findings["overlap-train-validation"].severity == "error"


def test_findings_are_json(tmp_path):
    finding = Finding("x", "note", "what", 1, 4, (Place("f", "line 1"),), "do")
    assert json.loads(json.dumps(finding.as_json())) == {
        "code": "x", "severity": "note", "what": "what", "count": 1, "of": 4, "places": [{"file": "f", "where": "line 1"}],
        "advice": "do", "share": 0.25,
    }  # fmt: skip


REAL = {  # as `check` counted when this was written, not counted in another way
    "banking77": {"overlap-train-test": 22, "duplicates-train": 28},
    "bc5cdr": {"overlap-train-validation": 20, "contradiction": 2},
    "clinc150": {"overlap-train-validation": 24, "overlap-train-test": 33, "contradiction": 8},
    "goemotions_sentiment": {"overlap-train-validation": 17, "contradiction": 13},
    "hint3_curekart": {"overlap-train-test": 7, "rare-label": 4},
    "snips_slots": {"overlap-train-test": 26, "duplicates-train": 227},
    "srl_ewt": {"unseen-validation": 1, "unseen-test": 1, "duplicates-train": 53},
    "unfair_tos": {"overlap-train-validation": 267, "duplicates-train": 1058},
}


@pytest.mark.parametrize("name", REAL)
def test_real_data(name):
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not here")
    data = Data(**{part: str(folder / f"{part}.jsonl") for part in ("train", "validation", "test")})
    result = check_files(data)
    counts = {finding.code: finding.count for finding in result.findings}
    assert REAL[name].items() <= counts.items()
    assert [part.left_out for part in result.seen.parts] == [0, 0, 0] and "broken-spans" not in counts
    if "unseen-test" in counts:
        with pytest.raises(ValueError, match="must be labelled as in"):
            load_data(data, 0)
    else:
        load_data(data, 0)
