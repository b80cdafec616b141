"""Findings about whole rows."""

import json

import needs_datasets  # noqa: F401
import pytest
from checks import checked, clean, found, where
from tiny_task import write_jsonl

from clm_kernels.finetune.checking.checked import check_files
from clm_kernels.finetune.config import Data


def test_clean_data_has_no_finding(tmp_path):
    assert found(tmp_path, **{part: clean(part) for part in ("train", "validation", "test")}) == {}


BAD = {
    "unreadable": ['{"text": "x"', "[1]", '{"text": '],
    "no-column": ['{"label": "a"}', '{"text": "x"}', '{"texts": "x", "label": "a"}'],
    "empty-text": ['{"text": " ", "label": "a"}', '{"text": null, "label": "a"}', '{"text": 3, "label": null}'],
    "bad-label": ['{"text": "x", "label": ""}', '{"text": "x", "label": 1.5}', '{"text": "x", "label": null}'],
}  # fmt: skip


@pytest.mark.parametrize("code", BAD)
def test_all_rows_that_cannot_be_read_are_counted(tmp_path, code):
    lines = [json.dumps(row) for row in clean("train")]
    lines[10:10], lines[30:30] = BAD[code][:1], BAD[code][1:]
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, BAD[code][0]]))
    result = check_files(Data(train=str(tmp_path / "train.jsonl")))
    (finding,) = result.findings
    assert (finding.code, finding.severity, finding.count, finding.of) == (code, "error", 4, 64)
    assert where(finding) == ["train 11", "train 31", "train 32"]
    assert "the first must be " in finding.what
    assert (len(result.seen.parts[0]), result.seen.parts[0].left_out) == (60, 4)


def test_bad_lines_of_csv(tmp_path):
    lines = ["text,label", *(f"text {i},{'ab'[i % 2]}" for i in range(20)), "short", "long,a,b", 'x"y,a', '"x"y,a', "good,b"]
    (tmp_path / "train.csv").write_bytes("\n".join(lines).encode() + b"\ncaf\xe9,a\nlast,a\n")
    result = check_files(Data(train=str(tmp_path / "train.csv")))
    (finding,) = result.findings
    assert (finding.code, finding.count, where(finding)) == ("unreadable", 4, ["train 22", "train 23", "train 25"])
    assert [len(part) for part in result.seen.parts] == [23]
    assert result.seen.parts[0].numbers[-1] == 28


def test_an_open_quote_takes_the_rest_of_the_file(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(20)) + '"open,a\nx,b\n')
    (finding,) = check_files(Data(train=str(tmp_path / "train.csv"))).findings
    assert (finding.code, finding.count) == ("unreadable", 1)


def test_rows_of_parquet_are_numbered(tmp_path):
    from datasets import Dataset

    rows = [*clean("train"), {"text": "", "label": "a"}]
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    (finding,) = check_files(Data(train=str(tmp_path / "train.parquet"))).findings
    assert finding.places[0].where == "row 61"


def test_tags_of_another_number(tmp_path):
    rows = [{"tokens": ["a", str(i)], "tags": ["B-X", "O"]} for i in range(20)] + [{"tokens": ["a", "b"], "tags": ["O"]}]
    (finding,) = found(tmp_path, train=rows).values()
    assert (finding.code, finding.count, where(finding)) == ("bad-label", 1, ["train 21"])
    assert "must be 2 tags, one for each word, got 1" in finding.what


def test_a_part_without_a_row(tmp_path):
    findings = found(tmp_path, train=clean("train"), test=[{"text": "", "label": "a"}])
    assert findings["no-rows"].severity == "error" and "test" in findings["no-rows"].what
    assert findings["empty-text"].count == 1


def test_the_first_row_may_be_bad(tmp_path):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [{"text": "x"}, *clean("train")])
    path.write_text("{\n" + path.read_text())
    result = check_files(Data(train=str(path)))
    assert result.task == "sequence" and {finding.code for finding in result.findings} == {"unreadable", "no-column"}


def test_long_reasons_are_cut(tmp_path):
    (finding,) = found(tmp_path, train=[*clean("train"), {"text": "x", "label": ["y" * 500]}]).values()
    assert finding.code == "bad-label" and len(finding.what) < 140


@pytest.mark.parametrize("text", ["nan", " NULL\n", "None", "n/a", "<NA>"])
def test_texts_that_programs_write_for_nothing(tmp_path, text):
    rows = clean("train")
    rows[4]["text"] = text
    (finding,) = found(tmp_path, train=rows).values()
    assert (finding.code, finding.severity, finding.count, where(finding)) == ("nan-text", "warning", 1, ["train 5"])


def test_words_that_only_begin_so_are_texts(tmp_path):
    rows = clean("train")
    rows[4]["text"], rows[5]["text"], rows[6]["text"] = "none of them", "nana", "null and void"
    assert found(tmp_path, train=rows) == {}


def test_half_a_character(tmp_path):
    rows = clean("train")
    rows[2]["text"] = "x \ud83d"
    (finding,) = found(tmp_path, train=rows).values()
    assert (finding.code, finding.severity, where(finding)) == ("no-unicode", "error", ["train 3"])


@pytest.mark.parametrize(("count", "codes"), [(120, set()), (121, {"swapped"})])
def test_a_part_far_larger_than_train(tmp_path, count, codes):
    findings = found(tmp_path, train=clean("train"), test=clean("test", count))
    assert findings.keys() == codes
    assert all((finding.severity, finding.count) == ("warning", count) for finding in findings.values())


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="an existing file"):
        checked(tmp_path, train=clean("train")) and check_files(Data(train=str(tmp_path / "none.jsonl")))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="at least one row"):
        check_files(Data(train=str(tmp_path / "empty.jsonl"), task="sequence"))
