"""``clm-kernels check``: tables, JSON, exit codes."""

import json

import needs_datasets  # noqa: F401
import pytest
from checks import clean, tagged
from command_line import run
from tiny_task import save_model, write_jsonl

from clm_kernels.cli.check import SHOWN
from clm_kernels.finetune.checking.finding import SEVERITIES


def written(folder, **parts):
    """The command's arguments for rows by part."""
    paths = {part: write_jsonl(folder / f"{part}.jsonl", rows) for part, rows in parts.items()}
    train = paths.pop("train")
    return [train, *(word for part, path in paths.items() for word in (f"--{part}", path))]


def with_everything(folder):
    """Data with many faults, and words that would drive a terminal."""
    train, test = clean("train"), [*clean("train", 40), *clean("test", 100)]
    train[3]["label"], train[4]["label"], train[5]["text"] = " A", "x\x1b[2J[red]\u202e" * 9, "nan"
    train[6]["text"] = ""
    test[0]["label"], test[1]["text"] = "new", None
    return written(folder, train=train, test=test)


WARNING = [{"text": "nan", "label": "a"}]
CODES = {  # what stands in train beside clean rows -> exit code, with --strict
    "clean": ([], 0, 0),
    "note": ([{"text": "train text 0", "label": "a"}], 0, 0),
    "warning": (WARNING, 0, 1),
    "error": ([{"text": "", "label": "a"}], 2, 2),
    "both": ([{"text": "", "label": "a"}, *WARNING], 2, 2),
}


@pytest.mark.parametrize("case", CODES)
def test_exit_codes(tmp_path, case):
    rows, plain, strict = CODES[case]
    arguments = written(tmp_path, train=[*clean("train", 300), *rows])
    assert run("check", *arguments).exit_code == plain
    assert run("check", *arguments, "--strict").exit_code == strict
    assert run("check", *arguments, "--json").exit_code == plain
    assert run("check", *arguments, "--json", "--strict").exit_code == strict


def test_clean_data(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = run("check", *written(tmp_path, train=clean("train"), test=clean("test")))
    assert result.exit_code == 0 and result.stdout.rstrip().endswith("nothing found")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[-3:] for row in rows if row[:1] in (["train"], ["test"])] == [["60", "0", "2"]] * 2


def test_it_fits_80_columns_and_no_text_drives_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run("check", *with_everything(tmp_path))
    assert result.exit_code == 2, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert "[red]" in result.stdout.replace("\n", "") and "\\x1b[2J" in result.stdout
    for severity in SEVERITIES:
        assert any(line.split()[:1] == [severity] for line in lines)


def test_advice_is_one_line_at_80_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = with_everything(tmp_path)
    findings = json.loads(run("check", *arguments, "--json").stdout)["findings"]
    shown = run("check", *arguments).stdout
    assert len(findings) > 6
    for finding in findings:
        assert f"→ {finding['advice']}" in shown


def test_the_worst_comes_first(tmp_path):
    severities = [
        finding["severity"] for finding in json.loads(run("check", *with_everything(tmp_path), "--json").stdout)["findings"]
    ]
    assert severities == sorted(severities, key=SEVERITIES.index) and set(severities) == set(SEVERITIES)


def test_json(tmp_path):
    arguments = written(tmp_path, train=[*clean("train"), {"text": ""}], test=clean("test", 10))
    told = json.loads(run("check", *arguments, "--json").stdout)
    assert (told["task"], told["scheme"], told["worst"]) == ("sequence", None, "error")
    assert told["parts"] == {
        "train": {"path": arguments[0], "rows": 60, "bad_rows": 1, "labels": {"a": 30, "b": 30}},
        "test": {"path": arguments[2], "rows": 10, "bad_rows": 0, "labels": {"a": 5, "b": 5}},
    }
    (finding,) = told["findings"]
    assert (finding["code"], finding["count"], finding["of"], finding["share"]) == ("no-column", 1, 71, 1 / 71)
    assert finding["places"] == [{"file": arguments[0], "where": "line 61"}]


def test_json_of_tags_is_ascii(tmp_path):
    train = tagged("train", ("B-PER", "I-LOC", "O", "B-L\u202e"))
    printed = run("check", *written(tmp_path, train=train), "--json").stdout
    told = json.loads(printed)
    assert printed.isascii() and told["scheme"] == "IOB2" and told["findings"][0]["code"] == "broken-spans"


def test_many_labels_are_cut_short(tmp_path):
    rows = [{"text": f"text {i}", "label": f"label{i % 40:02}"} for i in range(400)]
    shown = run("check", *written(tmp_path, train=rows)).stdout
    assert sum("label0" in line or "label1" in line or "label3" in line for line in shown.splitlines()) == SHOWN
    assert f"… {40 - SHOWN} more" in shown


def test_columns_rare_and_model(tmp_path):
    rows = [{"utterance": f"refund {'zzz ' * (i == 0)}{'my ' * i}", "intent": "ab"[i % 2]} for i in range(20)]
    arguments = written(tmp_path, train=rows)
    options = ["--text-column", "utterance", "--label-column", "intent", "--json"]
    assert run("check", *arguments).exit_code == 2
    assert json.loads(run("check", *arguments, *options).stdout)["findings"] == []
    (finding,) = json.loads(run("check", *arguments, *options, "--rare", "11").stdout)["findings"]
    assert finding["code"] == "rare-label"
    model = ["--model", save_model(tmp_path / "model"), "--max-length", "12"]
    codes = [finding["code"] for finding in json.loads(run("check", *arguments, *options, *model).stdout)["findings"]]
    assert codes == ["cut-train", "unknown-train"]


def test_mistakes_are_one_line(tmp_path):
    for arguments in (
        [tmp_path / "none.jsonl"],
        [*written(tmp_path, train=clean("train")), "--test", tmp_path / "none.csv"],
        [*written(tmp_path, train=clean("train")), "--model", tmp_path],
        [*written(tmp_path, train=clean("train")), "--task", "nothing"],
        written(tmp_path, train=[{"words": "x"}]),
    ):
        result = run("check", *arguments)
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert run("check").exit_code == 2
