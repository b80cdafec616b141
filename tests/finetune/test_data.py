"""Files of labelled examples: every format, every mistake."""

import csv
import json
import re
from dataclasses import replace

import needs_datasets  # noqa: F401
import pytest
from datasets import Dataset
from tiny_task import sentences, texts, write_jsonl

from clm_kernels.finetune.config import Data, TrainConfig
from clm_kernels.finetune.data import carve, find_task, load_data, read_split
from clm_kernels.finetune.files import find_delimiter, read_rows
from clm_kernels.finetune.tasks import TASKS

TEXTS = [{"text": 'He said "no", twice', "label": "a"}, {"text": "näive\tcafé", "label": "b"}, {"text": "a\nb", "label": "a"}]


def write(path, rows):
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writeheader()
            flat = [{key: " ".join(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows]
            writer.writerows(flat)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet", ".CSV"])
def test_every_format_reads_the_same(tmp_path, suffix):
    split = read_split(write(tmp_path / f"data{suffix}", TEXTS), TASKS["sequence"], Data())
    assert [split.texts, split.labels] == [[row[name] for row in TEXTS] for name in ("text", "label")]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_words_and_tags_in_every_format(tmp_path, suffix):
    rows = sentences(5, 0)
    split = read_split(write(tmp_path / f"data{suffix}", rows), TASKS["token"], Data())
    assert [split.texts, split.labels] == [[row[name] for row in rows] for name in ("tokens", "tags")]


def test_byte_order_mark_and_empty_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\r\nhi,1\r\n\r\nyou,2\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "hi", "label": 1}\n\n{"text": "you", "label": 2}')
    for name in ("a.csv", "a.jsonl"):
        split = read_split(tmp_path / name, TASKS["sequence"], Data())
        assert (split.texts, split.labels) == (["hi", "you"], ["1", "2"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_delimiter_is_found_and_may_be_given(tmp_path, delimiter, suffix):
    path = tmp_path / f"a{suffix}"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([["text", "label"], ["one; two, three", "a"], ["four | five", "b"]])
    for data in (Data(), Data(delimiter=delimiter)):
        split = read_split(path, TASKS["sequence"], data)
        assert (split.texts, split.labels) == (["one; two, three", "four | five"], ["a", "b"])


@pytest.mark.parametrize("header, found", [("text", ","), ("text;x,label", ","), ("a\tb", "\t"), ("a|b;c|d", "|")])
def test_the_delimiter_stands_in_the_header(tmp_path, header, found):
    (tmp_path / "a.csv").write_text(f"{header}\none; two; three | four\n")
    assert find_delimiter(tmp_path / "a.csv") == found


def test_what_is_usual_goes_before_what_seems_more_regular(tmp_path):
    (tmp_path / "a.csv").write_text("text;x,label\none;two,a,b\nthree;four,c\n")
    assert find_delimiter(tmp_path / "a.csv") == ","


@pytest.mark.parametrize("delimiter", [";;", '"', "\n"])
def test_a_delimiter_is_one_character(delimiter):
    with pytest.raises(ValueError, match="delimiter must be one character"):
        Data(delimiter=delimiter).check()


def test_texts_that_look_like_missing_values_stay(tmp_path):
    rows = [{"text": text, "label": "null"} for text in ("NA", "null", "None", "nan")]
    assert read_split(write(tmp_path / "a.csv", rows), TASKS["sequence"], Data()).texts == ["NA", "null", "None", "nan"]


BROKEN = {
    "missing file": ("a.jsonl", None, "an existing file, got nothing"),
    "unknown kind": ("a.xml", "x", "ends in '.jsonl'"),
    "empty": ("a.jsonl", "", "at least one row"),
    "header only": ("a.csv", "text,label\n", "at least one row"),
    "missing column": ("a.jsonl", '{"text": "x"}', "line 1 must be a row with a column 'label' (--label-column names another), got 'text'"),
    "column missing later": ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y"}', "line 2 must be a row with a column 'label'"),
    "no JSON": ("a.jsonl", '{"text": "x", "label": 1}\n{"text"', "line 2 must be one JSON object"),
    "no object": ("a.jsonl", "[1]", "line 1 must be one JSON object, got list"),
    "label is null": ("a.jsonl", '{"text": "x", "label": null}', "line 1: label must be a text or a whole number, got None"),
    "label is true": ("a.jsonl", '{"text": "x", "label": true}', "got True"),
    "label is a float": ("a.jsonl", '{"text": "x", "label": 1.5}', "got 1.5"),
    "label is empty": ("a.csv", "text,label\nx,\n", "line 2: label must be a text or a whole number, got ''"),
    "text is empty": ("a.csv", "text,label\n ,a\n", "line 2: text must be a text that is not empty, got ' '"),
    "text is a number": ("a.jsonl", '{"text": 3, "label": 1}', "text must be a text that is not empty, got 3"),
    "short row": ("a.csv", "text,label\nx\n", "line 2 must be 2 fields as the header, got 1"),
    "long row": ("a.tsv", "text\tlabel\nx\ty\tz\n", "line 2 must be 2 fields as the header, got 3"),
    "open quote": ("a.csv", 'text,label\n"x,a\ny,b\n', "properly quoted"),
    "not UTF-8": ("a.csv", b"text,label\nx,a\ncaf\xe9,b\n", "line 3 must be UTF-8"),
    "header in UTF-16": ("a.csv", "text,label\nx,a\n".encode("utf-16"), "line 1 must be UTF-8, got invalid start byte at byte 0; if it is text, convert it (`iconv -f UTF-16 "),
    "no parquet": ("a.parquet", "text", "a readable parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path, case):
    name, content, message = BROKEN[case]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_split(tmp_path / name, TASKS["sequence"], Data())
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 1: tags must be 2 tags, one for each word, got 1"),
        ({"tokens": ["a"], "tags": [None]}, "tags must be a text or a whole number"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens must be a text that is not empty"),
        ({"tokens": [], "tags": []}, "tokens must be a list with something in it"),
        ({"tokens": 3, "tags": ["O"]}, "tokens must be a list with something in it, got 3"),
    ],
)
def test_broken_words(tmp_path, row, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_split(write_jsonl(tmp_path / "a.jsonl", [row]), TASKS["token"], Data())


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(ValueError, match="an existing file, got a folder"):
        list(read_rows(tmp_path / "a.jsonl"))


def corpus(config):
    return load_data(config.data, config.run.seed)


def config_for(tmp_path, train, **others):
    paths = {part: write_jsonl(tmp_path / f"{part}.jsonl", rows) for part, rows in {"train": train, **others}.items()}
    return TrainConfig(model="m", output="o", **paths)


def test_labels_come_from_train_and_numbers_sort_as_numbers(tmp_path):
    rows = [{"text": "x", "label": label} for label in (10, 2, "1", 2, 10, 1)]
    data = corpus(config_for(tmp_path, rows, test=rows[:1], validation=rows[:2]))
    assert data.label_names == ["1", "2", "10"]
    assert data.test.labels == ["10"]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_label_that_train_lacks(tmp_path, part):
    others = {part: [*texts(3, 1), {"text": "x", "label": "new"}]}
    with pytest.raises(ValueError, match=rf"{part}.jsonl, line 4 must be labelled as in .*train.jsonl, got 'new'"):
        corpus(config_for(tmp_path, texts(9, 0), **others))


def test_a_tag_that_train_lacks(tmp_path):
    new = [{"tokens": ["x"], "tags": ["B-NEW"]}]
    with pytest.raises(ValueError, match="'B-NEW'"):
        corpus(config_for(tmp_path, sentences(9, 0), test=new))


def test_one_class_only(tmp_path):
    with pytest.raises(ValueError, match="two labels or more, got only 'a'"):
        corpus(config_for(tmp_path, [{"text": "x", "label": "a"}] * 4))


def test_the_task_is_found_by_the_columns(tmp_path):
    assert corpus(config_for(tmp_path, texts(9, 0))).task.name == "sequence"
    assert corpus(config_for(tmp_path, sentences(9, 0))).task.name == "token"
    both = [{**a, **b} for a, b in zip(texts(9, 0), sentences(9, 0), strict=True)]
    with pytest.raises(ValueError, match="task must be sequence or token, for the data has columns for both"):
        corpus(config_for(tmp_path, both))
    with pytest.raises(
        ValueError,
        match=r"with columns 'text' and 'label' or 'tokens' and 'tags' or 'text' and 'labels' \(--text-column, .*\), got 'words'",
    ):
        corpus(config_for(tmp_path, [{"words": "x"}]))


def test_columns_can_be_named(tmp_path):
    rows = [{"utterance": row["text"], "intent": row["label"]} for row in texts(9, 0)]
    config = config_for(tmp_path, rows)
    config = replace(config, text_column="utterance", label_column="intent")
    assert sorted(corpus(config).label_names) == ["access", "billing", "delivery"]


def test_validation_is_carved_from_train(tmp_path):
    rows = [*texts(60, 0), {"text": "just one", "label": "rare"}, {"text": "x", "label": "pair"}, {"text": "y", "label": "pair"}]
    config = config_for(tmp_path, rows)
    data, again = corpus(config), corpus(config)
    assert data.validation.texts == again.validation.texts
    assert sorted([*data.train.where, *data.validation.where]) == sorted(f"line {i + 1}" for i in range(63))
    counts = {label: data.validation.labels.count(label) for label in data.label_names}
    assert counts == {"access": 2, "billing": 2, "delivery": 2, "pair": 1, "rare": 0}
    assert data.record["validation"] == {"carved_from": config.data.train, "fraction": 0.1, "seed": 42, "rows": 7}
    assert data.record["train"]["rows"] == 56
    assert corpus(replace(config, seed=1)).validation.where != data.validation.where


def test_nothing_to_carve(tmp_path):
    config = config_for(tmp_path, [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}])
    with pytest.raises(ValueError, match="two examples of a label or more"):
        corpus(config)


def test_carving_sentences(tmp_path):
    split = read_split(write_jsonl(tmp_path / "a.jsonl", sentences(20, 0)), TASKS["token"], Data())
    train, validation = carve(split, TASKS["token"], 0.25, 0)
    assert (len(train), len(validation)) == (15, 5)


def test_the_record_knows_the_files(tmp_path):
    config = config_for(tmp_path, texts(9, 0), test=texts(3, 1))
    record = corpus(config).record
    assert record["test"]["rows"] == 3
    write_jsonl(tmp_path / "test.jsonl", texts(3, 2))
    assert corpus(config).record["test"]["sha256"] != record["test"]["sha256"]
    json.dumps(record)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_where_no_row_can_be_read_the_reason_is_said(tmp_path, name):
    (tmp_path / name).write_bytes('{"text": "x", "label": "a"}\n'.encode("utf-16"))
    with pytest.raises(ValueError, match=r"line 1 must be UTF-8.*iconv -f UTF-16"):
        find_task(Data(train=str(tmp_path / name), skip_bad_rows=True))


def test_a_bad_row_of_a_run_says_how_to_go_on(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x", "label": "a"}, {"text": "", "label": "b"}])
    with pytest.raises(ValueError, match=r"line 2.*clm-kernels check.*--skip-bad-rows"):
        load_data(Data(train=path), 1)
    (tmp_path / "b.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"line 1.*clm-kernels check.*--skip-bad-rows"):
        load_data(Data(train=str(tmp_path / "b.jsonl")), 1)
