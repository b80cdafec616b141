"""`run.yaml`: a run done again from it has the same bits; what is not as it was, or not known, is refused by name."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from command_line import run
from tiny_runs import assert_same, silent, trained_tensors
from tiny_task import save_model

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.config import PARTS
from clm_kernels.finetune.run_file import FORGOTTEN, begun_with, config_from, load_run_file, read_run


@pytest.fixture(scope="module")
def file(finished):
    return Path(finished[0].run.output) / "run.yaml"


@pytest.fixture
def edited(file, tmp_path):
    def edit(pattern, by):
        text, count = re.subn(pattern, by, file.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1
        (tmp_path / "run.yaml").write_text(text)
        return tmp_path / "run.yaml"

    return edit


def test_the_same_bits_again(finished, file, tmp_path):
    said = []
    report = train(read_run(file, said.append, output=str(tmp_path / "again")), silent)
    assert_same(trained_tensors(tmp_path / "again"), trained_tensors(finished[0].run.output))
    assert (report.history, report.test) == (finished[1].history, finished[1].test)
    assert said == [f"{file}, but output {str(tmp_path / 'again')!r} in place of {finished[0].run.output!r}"]
    lines = [path.read_text().splitlines() for path in (file, tmp_path / "again" / "run.yaml")]
    assert [a for a, b in zip(*lines, strict=True) if a != b] == [f"  output: {finished[0].run.output}"]


def test_every_option_stands_in_it_with_what_auto_stands_for(file):
    content = yaml.safe_load(file.read_text())
    options = {name for part in PARTS for name in content[part]}
    assert options == TrainConfig().options().keys() - set(FORGOTTEN)
    found = load_run_file(file).options
    assert {name: found[name] for name in ("task", "pooling", "learning_rate", "best_by", "weight_decay")} == {
        "task": "sequence", "pooling": "mean", "learning_rate": 1e-2, "best_by": "accuracy", "weight_decay": 0.0,
    }  # fmt: skip
    assert content["files"].keys() == {"model", "train", "validation", "test"} and content["versions"]["torch"]


def test_paths_stay_as_they_were_given(base, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(base.data.train).parent)
    paths = {name: Path(value).name for name, value in base.options().items() if name in ("model", "train", "validation", "test")}
    train(replace(base, **paths, output=str(tmp_path / "o"), epochs=0.1), silent)
    assert str(Path(base.data.train).parent) not in (tmp_path / "o" / "run.yaml").read_text()


@pytest.mark.parametrize(
    ("pattern", "by", "told"),
    [
        ("^  epochs:", "  epoch:", r"known keys \(the nearest is training.epochs\), got 'training.epoch'"),
        ("^  batch_size:", "  density:", r"known keys \(the nearest is selecting.density\), got 'training.density'"),
        ("^training:", "train:", r"known keys \(the nearest is data.train\), got 'train'"),
        ("^training:", "trainings:", r"known keys \(the nearest is training\), got 'trainings'"),
        ("^  epochs: .*", "  epochs: many", "training.epochs must be a number, got 'many'"),
        ("^  block: .*", "  block: 1.5", "selecting.block must be a whole number, got '1.5'"),
        ("^  biases: .*", "  biases: maybe", "selecting.biases must be true or false, got 'maybe'"),
        ("^  epochs: .*", "  epochs: [1, 2]", "training.epochs must be one value, got a list"),
        ("^  epochs: .*", "  epochs: 1\n  epochs: 2", "a key that stands there once, got 'epochs'"),
        ("^  epochs: .*", "  epochs: &a 1", "plain YAML, got an anchor or alias in line"),
        ("^  epochs: .*", "  epochs: !!python/object/apply:os.system [x]", "got the tag 'tag:yaml.org,2002:python/object"),
        ("^  epochs: .*", "  epochs: [[[[1]]]]", "got more than 3 levels"),
        ("^training:", "\ttraining:", "a run file in YAML, got while scanning"),
        ("^format: .*", "format: another/2", "of the format clm_kernels.run/1, got 'another/2'"),
        ("^versions:", "versions: 1\nelse:", "names and texts under files and versions"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(edited, pattern, by, told):
    with pytest.raises(ValueError, match=rf"^train: .*{told}"):
        load_run_file(edited(pattern, by))


@pytest.mark.parametrize(
    ("content", "told"), [("", "keys and values, got None"), ("- a", "keys and values"), ("x" * 300_000, "at most")]
)
def test_files_that_are_none(tmp_path, content, told):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"^train: .*{told}"):
        load_run_file(tmp_path / "run.yaml")
    with pytest.raises(ValueError, match=r"^train: '.*none' must be a run file, got No such file"):
        load_run_file(tmp_path / "none")


def test_values_are_what_the_option_says(tmp_path):
    """YAML by itself would take 1e-3 for a text, 0.99 for a number and no for false."""
    (tmp_path / "run.yaml").write_text(
        "lora:\ntraining: {learning_rate: 1e-3, energy: 0.99, cost: null, replay: true}\ndata: {text_column: no, label_column: null}\n"
    )
    assert read_run(tmp_path / "run.yaml", silent) == TrainConfig(
        learning_rate=1e-3, energy="0.99", cost=None, replay=True, text_column="no", label_column="null"
    )


def test_changed_files_are_refused_unless_given_anew(base, file, tmp_path):
    loaded = load_run_file(file)
    for name in ("train", "test"):
        changed = tmp_path / f"{name}.jsonl"
        changed.write_bytes(Path(base.options()[name]).read_bytes() + b"\n")
        moved = replace(loaded, options=loaded.options | {name: str(changed)})
        with pytest.raises(
            ValueError, match=rf"^train: {name} must be what .* got .*{name}.jsonl, which has changed \(give --{name} anew"
        ):
            config_from(moved, {}, silent)
        assert config_from(moved, {name: str(changed)}, silent).options()[name] == str(changed)
    model = save_model(tmp_path / "model", seed=5)
    (tmp_path / "model" / "README.md").write_text("read by nobody")
    with pytest.raises(ValueError, match=r"^train: model must be what .* which has changed: model.safetensors"):
        config_from(replace(loaded, options=loaded.options | {"model": model}), {}, silent)
    gone = replace(loaded, options=loaded.options | {"validation": str(tmp_path / "gone.jsonl")})
    with pytest.raises(ValueError, match=r"^train: validation must be what .* got '.*gone.jsonl', which is not there"):
        config_from(gone, {}, silent)


def test_an_option_that_there_is_not(file):
    with pytest.raises(TypeError, match=r"options must be among .*, got 'epoch'"):
        read_run(file, silent, epoch=3)


def test_other_versions_are_said(edited):
    said = []
    read_run(edited("^  torch: .*", "  torch: 1.0"), said.append)
    assert len(said) == 1 and re.search(r"was written with other versions \(torch \S+ for 1.0\): results may differ", said[0])


# From the command line


@pytest.fixture
def seen(monkeypatch):
    found = []
    monkeypatch.setattr("clm_kernels.finetune.recipe.train", lambda config, *_: found.append(config) or 1 / 0)
    return found


def test_the_option_stands_before_the_setting_before_the_file(file, finished, seen):
    settings = ["--set", "training.epochs=7", "--set", "training.batch_size=5", "--set", "selecting.density=null"]
    result = run("train", "--config", file, *settings, "--epochs", "4", "--output", "o", "--no-biases")
    (config,) = seen
    expected = load_run_file(file).options | {"epochs": 4.0, "batch_size": 5, "density": None, "output": "o", "biases": False}
    assert config.options() | {name: expected[name] for name in expected} == config.options()
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"{file}, but epochs 4.0 in place of 3, batch_size 5 in place of 8, density None in place of 0.1")
    assert "lora_rank" not in config.given and {"epochs", "learning_rate"} <= config.given


def test_settings_without_a_file(seen):
    run("train", "--set", "training.epochs=2", "--set", "data.text_column=a=b", "--model", "m")
    assert seen == [TrainConfig(model="m", epochs=2, text_column="a=b")]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("epochs", "set must be key=value, as training.epochs=3, got 'epochs'"),
        ("epochs=3", "set must be one of known keys (the nearest is training.epochs), got 'epochs'"),
        ("run.sede=3", "set must be one of known keys (the nearest is run.seed), got 'run.sede'"),
        ("training.epochs=x", "set training.epochs must be a number, got 'x'"),
    ],
)
def test_settings_that_cannot_be(seen, setting, told):
    result = run("train", "--set", setting)
    assert (result.exit_code, result.stderr) == (2, f"error: train: {told}\n") and not seen


def test_what_a_run_was_begun_with_is_known_without_its_file(file, tmp_path):
    config = TrainConfig(model="m", train="t", output="o", epochs=2)
    assert begun_with(file, config) == load_run_file(file).options
    (tmp_path / "run.yaml").write_text("hello: [")
    assert begun_with(tmp_path / "run.yaml", config) == config.options()
