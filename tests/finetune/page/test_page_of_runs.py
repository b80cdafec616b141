"""The page that `train` leaves says what `evaluate` finds when it loads the result and reads the test data again."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Read
from tiny_runs import base, silent  # noqa: F401
from tiny_task import sentences, several, texts, write_data

import clm_kernels as clm
from clm_kernels.finetune import train
from clm_kernels.finetune.artifacts import PAGE


def long_sentences(count, seed):
    """Whose last words are cut off at 8 tokens."""
    end = {"tokens": ["with", "Anna", "now"], "tags": ["O", "B-PER", "O"]}
    return [{column: values + end[column] for column, values in row.items()} for row in sentences(count, seed)]


def muddled(count, seed):
    """With mistakes to show."""
    rows = texts(count, seed)
    return [row | {"label": rows[i - 1]["label"]} if i % 5 == 0 else row for i, row in enumerate(rows)]


@pytest.mark.parametrize("make", [muddled, long_sentences, several])
def test_it_says_what_evaluate_finds(base, make, tmp_path):  # noqa: F811
    said = []
    shortened = {"max_length": 8} if make is long_sentences else {"energy": "0.9", "skip": 0.1} if make is muddled else {}
    config = replace(
        base, **write_data(tmp_path, make), output=str(tmp_path / "out"), epochs=1 if make is several else 2, **shortened
    )
    report = train(config, said.append)
    found = clm.evaluate(tmp_path / "out", config.data.test, tmp_path / "judged", say=silent)
    trained, judged = ((tmp_path / folder / PAGE).read_text(encoding="utf-8") for folder in ("out", "judged"))
    assert not [line for line in said if "left out" in line]
    ours, theirs = Read(trained).sections, Read(judged).sections
    assert found.errors and all(ours.get(key) == theirs.get(key) for key in ("classes", "confusion", "mistakes"))
    assert _picture(trained) == _picture(judged)
    for name, score in found.scores.items():
        assert score.score == pytest.approx(report.test[name])
        assert f"{100 * score.score:.1f}\xa0%{100 * score.low:.1f}\xa0% to {100 * score.high:.1f}\xa0%" in ours["scores"]
    assert ("was cut off" in ours["mistakes"]) == (make is long_sentences)
    assert ("words" in ours) == (make is muddled) and ("How it was made" in ours["made"]) and "made" not in theirs


def test_without_test_data_it_is_of_the_validation_data(base, tmp_path):  # noqa: F811
    config = replace(base, test="", output=str(tmp_path / "out"), epochs=1)
    report = train(config, silent)
    text = Read((tmp_path / "out" / PAGE).read_text(encoding="utf-8")).text
    assert "Accuracy on the validation data" in text and f"{100 * report.best['accuracy']:.1f}\xa0%" in text
    assert sorted(path.name for path in Path(tmp_path).rglob("*.html")) == [PAGE]


def _picture(page):
    """Of the reliability."""
    return re.findall(r"<rect[^>]*>", page.partition('id="calibration"')[2].partition("</svg>")[0])
