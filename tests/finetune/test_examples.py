"""Rows that cannot be read: raised, told of, or left out by `train --skip-bad-rows`."""

import json
from dataclasses import replace
from pathlib import Path

import needs_datasets  # noqa: F401
import pytest
from tiny_runs import silent
from tiny_task import texts, write_jsonl

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.config import Data
from clm_kernels.finetune.data import find_task, load_data, read_split
from clm_kernels.finetune.examples import read_examples
from clm_kernels.finetune.tasks import TASKS

FAULTS = ["{", "[]", '{"text": "x"}', '{"text": "", "label": "a"}', '{"text": "x", "label": null}', '{"text": "x", "label": "a"}']


@pytest.fixture
def faulty(tmp_path):
    """A file of six lines of which the last one is good."""
    path = tmp_path / "faulty.jsonl"
    path.write_text("\n".join(FAULTS))
    return str(path)


def test_bad_rows_are_told_of_by_kind(faulty):
    bad = []
    rows = list(read_examples(faulty, TASKS["sequence"], Data(), bad=bad.append))
    assert rows == [("line 6", "x", "a")]
    assert [(row.where, row.kind) for row in bad] == [
        ("line 1", "line"), ("line 2", "line"), ("line 3", "column"), ("line 4", "text"), ("line 5", "label"),
    ]  # fmt: skip
    assert all(f"{faulty}, {row.where}" in row.reason and " must be " in row.reason for row in bad)


def test_without_labels_only_texts_must_be_right(faulty):
    bad = []
    rows = list(read_examples(faulty, TASKS["sequence"], Data(), labelled=False, bad=bad.append))
    assert [where for where, *_ in rows] == ["line 3", "line 5", "line 6"] and len(bad) == 3


def test_nothing_is_skipped_unless_asked(faulty):
    with pytest.raises(ValueError, match="line 1 must be one JSON object"):
        read_split(faulty, TASKS["sequence"], Data())
    split = read_split(faulty, TASKS["sequence"], Data(skip_bad_rows=True))
    assert (split.texts, split.where) == (["x"], ["line 6"])


def test_the_task_is_told_by_the_first_row_that_can(faulty):
    with pytest.raises(ValueError, match="line 1"):
        find_task(Data(train=faulty))
    assert find_task(Data(train=faulty, skip_bad_rows=True)).name == "sequence"


def test_a_file_of_bad_rows_alone(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "", "label": "a"}])
    with pytest.raises(ValueError, match="a file with a row that can be read, got none"):
        read_split(path, TASKS["sequence"], Data(skip_bad_rows=True))


def test_a_label_that_train_lacks_is_no_bad_row(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(12, 0))
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "x", "label": "new"}])
    with pytest.raises(ValueError, match="must be labelled as in"):
        load_data(Data(train=train, test=test, skip_bad_rows=True), 0)


def test_only_who_skips_has_it_in_the_record(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(12, 0))
    assert "left_out" not in load_data(Data(train=train), 0).record["train"]
    assert load_data(Data(train=train, skip_bad_rows=True), 0).record["train"]["left_out"] == {"rows": 0, "first": []}


def test_train_leaves_them_out_counts_them_and_learns_the_same(base, finished, tmp_path):
    """The rows between the good ones change nothing but the record."""
    parts, faults = {}, {"train": 5, "validation": 0, "test": 2}
    for part, count in faults.items():
        lines = Path(base.options()[part]).read_text(encoding="utf-8").splitlines()
        lines[1:1] = FAULTS[:count]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
        parts[part] = str(tmp_path / f"{part}.jsonl")
    said = []
    config = replace(base, **parts, output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2"):
        train(config, silent)
    report = train(replace(config, skip_bad_rows=True), said.append)
    assert [line for line in said if "left out" in line] == [
        f"rows left out, as they cannot be read: 5 of {parts['train']} (line 2, line 3, line 4, …);"
        f" 2 of {parts['test']} (line 2, line 3); scores are of the others"
    ]
    stored = json.loads((tmp_path / "out" / "report.json").read_text())["data"]
    assert [stored[part]["left_out"]["rows"] for part in faults] == [5, 0, 2]
    assert stored["test"]["rows"] == 18 and report.config["skip_bad_rows"] is True
    assert (report.history, report.test) == (finished[1].history, finished[1].test)


def test_train_says_the_worst_in_one_line(base, tmp_path):
    assert TrainConfig().data.skip_bad_rows is False
    said = []
    rows = list(map(json.loads, Path(base.options()["train"]).read_text(encoding="utf-8").splitlines()))
    rows[5]["text"] = "nan"
    train(replace(base, train=write_jsonl(tmp_path / "train.jsonl", rows), output=str(tmp_path / "out")), said.append)
    assert len([line for line in said if line.startswith("data: ")]) == 1
