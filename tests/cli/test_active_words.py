"""``tokens --active``: which words carry the gradient of a run, printed and drawn."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run
from tiny_runs import FAST, silent
from tiny_task import TOPICS, save_model, sentences, write_data

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.words.sentences import sentences as sentences_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with active tokens."""
    folder = tmp_path_factory.mktemp("active")
    data = write_data(folder)
    config = TrainConfig(
        model=save_model(folder / "model"), **data, **FAST | {"epochs": 1}, energy="0.9", output=str(folder / "out")
    )
    train(config, silent)
    return config


def test_it_prints_words_beside_their_log_odds_and_draws_them_with_sentences(finished, tmp_path):
    result = run("tokens", "--active", finished.run.output, "--top", 12, "--picture", tmp_path / "words.svg")
    assert result.exit_code == 0, result.output
    drawn = (tmp_path / "words.svg").read_text()
    for label, words in TOPICS.items():
        assert label in result.output and label in drawn
        assert all(word in result.output for word in words)
    assert "→" in result.output and "(z " in result.output and "special tokens" in result.output and "[CLS]" not in result.output
    assert "gradient of each label" in drawn and "log-odds z" in drawn and "[CLS]" in drawn


def test_words_of_single_sentences(finished):
    texts = [line.split('"')[3] for line in Path(finished.data.test).read_text().splitlines()]
    found = sentences_of(Path(finished.run.output), 4)
    assert [sentence.label for sentence in found] == ["access", "billing", "delivery", "access"]
    for sentence in found:
        assert sentence.words[0] == "[CLS]" and " ".join(sentence.words[1:-1]) in texts
        assert sum(sentence.held) == pytest.approx(1) and len(sentence.held) == len(sentence.words)


def test_without_the_files_of_the_run(finished, tmp_path):
    files = {part: shutil.copy(finished.options()[part], tmp_path) for part in ("train", "validation", "test")}
    config = replace(finished, **files, output=str(tmp_path / "out"))
    train(config, silent)
    for path in files.values():
        Path(path).unlink()
    result = run("tokens", "--active", config.run.output)
    assert result.exit_code == 0 and "password" in result.output and "(z " not in result.output
    result = run("tokens", "--active", config.run.output, "--picture", tmp_path / "words.png")
    assert result.exit_code == 2 and "the run's data must be where it was" in result.stderr.replace("\n", " ")


def test_of_tags(tmp_path):
    data = write_data(tmp_path, sentences)
    config = TrainConfig(
        model=save_model(tmp_path / "model"), **data, **FAST | {"epochs": 1}, energy="0.9", output=str(tmp_path / "out")
    )
    train(config, silent)
    result = run("tokens", "--active", config.run.output, "--picture", tmp_path / "words.png")
    assert result.exit_code == 0 and "PER" in result.output and "anna" in result.output
    assert (tmp_path / "words.png").stat().st_size > 10_000
    found = sentences_of(tmp_path / "out", 3)
    assert {sentence.label for sentence in found} == {""} and {"PER", "LOC", "O"} == {tag for s in found for tag in s.labels}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--active", "nowhere"], "active must be the folder of a finished run of `train --energy 0.99`"),
        (["--active", "{run}", "--model", "m"], "tokens: model must be left out with active"),
        (["--active", "{run}", "--output", "o.json"], "tokens: output must be left out with active"),
        (["--active", "{run}", "--measure", "chi-squared"], "tokens: measure must be log-odds with active, got 'chi-squared'"),
    ],
)
def test_what_it_refuses(finished, options, message):
    result = run("tokens", *(option.format(run=finished.run.output) for option in options))
    assert result.exit_code == 2 and message in result.stderr.replace("\n", " ")


def test_without_matplotlib_it_says_so(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("tokens", "--active", finished.run.output, "--picture", tmp_path / "words.png")
    assert result.exit_code == 1 and "tokens: the package matplotlib is needed" in result.stderr
