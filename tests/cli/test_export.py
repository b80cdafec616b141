"""The command export: one run, all that can be left of it, compared on the rows that validated it; no pickle anywhere."""

import json
import pickletools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from tiny_task import TOPICS

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

KINDS = {"plain": [], "onnx": ["--onnx", "--int8"], "st": ["--sentence-transformers"]}


@pytest.fixture(scope="module")
def shipped(finished, tmp_path_factory):
    """Folder of all exports, and what the command printed of each."""
    folder = tmp_path_factory.mktemp("shipped")
    said = {
        name: run("export", "--model", finished[0].run.output, "--output", folder / name, *options)
        for name, options in KINDS.items()
    }
    assert all(done.exit_code == 0 for done in said.values()), {name: done.output for name, done in said.items()}
    return folder, {name: done.stdout for name, done in said.items()}


def test_it_says_on_what_it_was_compared(shipped):
    _, said = shipped
    assert all("compared with the trained model on 18 rows of validation.jsonl" in text for text in said.values())
    assert "logits within" in said["plain"] and "clm_pooled.py in it is code" in said["plain"]
    assert said["onnx"].count("one text on one thread in") == 2 and "points of accuracy" in said["onnx"]
    assert "embeddings, and the logits of the head beside them, within" in said["st"] and "is code" not in said["st"]


def test_every_export_has_a_card(shipped):
    folder, _ = shipped
    for name in KINDS:
        card = (folder / name / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\n") and "| accuracy |" in card and "on 18 rows of validation.jsonl" in card
        assert all(f"`{label}`" in card for label in TOPICS) and "/tmp" not in card and str(folder.parent) not in card


def test_nothing_that_is_left_is_a_pickle(shipped, finished):
    """No file of a run or of an export is one, by its name, its content, or as a zip of torch.save."""
    paths = [
        path
        for root in (shipped[0], Path(finished[0].run.output))
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert {path.suffix for path in paths} <= {".json", ".safetensors", ".onnx", ".md", ".py", ".png", ".html", ".yaml"}
    assert [path for path in paths if _is_pickle(path)] == []


def test_a_pickle_would_be_seen(tmp_path):
    import pickle

    import torch

    (tmp_path / "a").write_bytes(pickle.dumps({"a": [1]}))
    torch.save({"a": torch.ones(1)}, tmp_path / "b")
    np.save(tmp_path / "c.npy", np.array([{}]), allow_pickle=True)
    assert all(_is_pickle(path) for path in tmp_path.iterdir())


def _is_pickle(path):
    content = path.read_bytes()
    if content[:4] == b"PK\x03\x04" or content[:6] == b"\x93NUMPY":
        return True
    try:
        return any(True for _ in pickletools.genops(content)) and content[:1] == b"\x80"
    except Exception:
        return False


def test_a_file_of_your_own_is_compared_on(finished, tmp_path):
    config = finished[0]
    options = ("export", "--model", config.run.output, "--output", tmp_path / "o")
    done = run(*options, "--data", config.data.test)
    assert done.exit_code == 0 and "18 rows of test.jsonl" in done.stdout
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "a", "label": "unheard"}))
    refused = run(*options[:-1], tmp_path / "p", "--data", other)
    assert refused.exit_code == 2 and "labelled as in training, got 'unheard'" in refused.stderr and not (tmp_path / "p").exists()


def test_without_the_runs_data_texts_are_drawn(finished, tmp_path):
    moved = Path(shutil.copytree(finished[0].run.output, tmp_path / "run"))
    record = json.loads((moved / "run.json").read_text())
    record["config"]["validation"] = str(tmp_path / "gone.jsonl")
    (moved / "run.json").write_text(json.dumps(record))
    done = run("export", "--model", moved, "--output", tmp_path / "o")
    assert done.exit_code == 0 and "texts of random words (the run's data are gone)" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--int8"], "int8 must be given with --onnx"), (["--onnx", "--sentence-transformers"], "onnx must be left out with"),
     (["--data", "nowhere.csv"], "data must be an existing file"), (["--no-code"], "code must be True for pooling 'mean'.*--onnx")],
)  # fmt: skip
def test_mistakes(finished, tmp_path, options, said):
    done = run("export", "--model", finished[0].run.output, "--output", tmp_path / "o", *options)
    assert done.exit_code == 2 and re.search(said, done.stderr.replace("\n", " ")) and not (tmp_path / "o").exists()
