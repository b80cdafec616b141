"""Training data that is no file: a folder of parts, standard input."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import run
from tiny_runs import base, silent  # noqa: F401
from tiny_task import texts, write_data

from clm_kernels.finetune import train
from clm_kernels.finetune.config import Data
from clm_kernels.finetune.parts import part_of_test, with_files


def given(monkeypatch, content: bytes):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def paths(data):
    return [Path(getattr(data, part)).name for part in ("train", "validation", "test")]


@pytest.mark.parametrize(
    "names, found",
    [
        (["train.jsonl", "dev.csv", "Test.tsv", "README.md", "train.txt"], ["train.jsonl", "dev.csv", "Test.tsv"]),
        (["train.parquet", "other.parquet"], ["train.parquet", "", ""]),
        (
            ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
            ["train-00000-of-00001.parquet", "", "test-00000-of-00001.parquet"],
        ),
    ],
)
def test_the_parts_of_a_folder_go_by_their_names(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    with with_files(Data(train=str(tmp_path))) as data:
        assert paths(data) == found


@pytest.mark.parametrize(
    "names, others, said",
    [
        (["dev.csv"], {}, "a folder with a file train"),
        (["train.csv", "train.jsonl"], {}, "a folder with one file for train, got 'train.csv' or 'train.jsonl'"),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], {}, "a folder with one file for train"),
        (["train.csv", "val.csv", "dev.csv"], {}, "a folder with one file for validation"),
        (["train.csv", "dev.csv"], {"validation": "other.csv"}, "validation must be left out, as .* has 'dev.csv'"),
    ],
)
def test_what_a_folder_leaves_open_is_refused(tmp_path, names, others, said):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=said), with_files(Data(train=str(tmp_path), **others)):
        pass


def test_nothing_changes_without(tmp_path):
    for data in (Data(), Data(train=str(tmp_path / "t.jsonl"))):
        with with_files(data) as found:
            assert found is data


@pytest.mark.parametrize("content, end", [(b'\xef\xbb\xbf\n{"text": "x"}\n', ".jsonl"), (b"text;label\na;b\n", ".csv")])
def test_standard_input_is_spooled_once(monkeypatch, content, end):
    given(monkeypatch, content)
    with with_files(Data(train="-")) as data:
        assert Path(data.train).suffix == end and Path(data.train).read_bytes() == content
    assert not Path(data.train).exists()


def test_standard_input_is_one_part_of_one_process(monkeypatch):
    for data, said in ((Data(train="-"), "got nothing"), (Data(train="x.csv", test="-"), "test must be a file")):
        given(monkeypatch, b"")
        with pytest.raises(ValueError, match=said), with_files(data):
            pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes"), with_files(Data(train="-")):
        pass


def test_a_run_trains_on_a_folder_and_on_standard_input(base, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "data").mkdir()
    files = write_data(tmp_path / "data", texts, 24)
    options = {"epochs": 1, "validation": "", "test": ""}
    report = train(replace(base, **options, train=str(tmp_path / "data"), output=str(tmp_path / "folder")), silent)
    assert [report.data[part]["path"] for part in files] == list(files.values())
    given(monkeypatch, Path(files["train"]).read_bytes())
    again = train(replace(base, **options | {"test": files["test"]}, train="-", output=str(tmp_path / "stdin")), silent)
    assert again.data["train"]["sha256"] == report.data["train"]["sha256"] and again.test


def test_check_takes_both(tmp_path):
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data", texts, 24)
    told = json.loads(run("check", tmp_path / "data", "--json").stdout)
    assert list(told["parts"]) == ["train", "validation", "test"]
    told = json.loads(run("check", "-", "--json", input=Path(tmp_path / "data" / "train.jsonl").read_text()).stdout)
    assert told["parts"]["train"]["rows"] == 24


def test_standard_input_is_called_so():
    told = run("check", "-", "--json", input='{"text": "x"}\n')
    assert told.exit_code == 2 and told.stderr.startswith("error: load_data: standard input must be a table")
    rows = '{"text": "x", "label": "a"}\n{"text": "y", "label": "b"}\n'
    checked = json.loads(run("check", "-", "--json", input=rows).stdout)
    assert checked["parts"]["train"]["path"] == "standard input"
    assert checked["findings"][0]["places"][0]["file"] == "standard input"


def test_the_test_part_of_a_folder(tmp_path):
    (tmp_path / "train.csv").touch()
    with pytest.raises(ValueError, match=r"evaluate: .* a folder with a file test, got 'train.csv'"):
        part_of_test(str(tmp_path))
    (tmp_path / "test.jsonl").touch()
    assert part_of_test(str(tmp_path)) == str(tmp_path / "test.jsonl")
    assert part_of_test("nothing.csv") == "nothing.csv"
