"""Findings about texts that stand there twice."""

import needs_datasets  # noqa: F401
import pytest
from checks import clean, found, tagged, where

from clm_kernels.finetune.checking.normal import loosened


def with_texts(part, *texts):
    """Clean rows whose last ones have these texts."""
    rows = clean(part, 100)
    for row, text in zip(rows[-len(texts) :], texts):
        row["text"] = text
    return rows


def test_overlap_exact_and_but_for_case_space_and_punctuation(tmp_path):
    test = with_texts("test", "train text 3", "Train  TEXT 5!", "train-text7")
    finding = found(tmp_path, train=clean("train", 100), test=test)["overlap-train-test"]
    assert (finding.severity, finding.count, finding.of, where(finding)) == (
        "warning",
        3,
        100,
        ["test 98", "test 99", "test 100"],
    )
    assert "(1 exactly)" in finding.what


@pytest.mark.parametrize(
    ("count", "of", "severity"), [(1, 101, "note"), (1, 100, "warning"), (49, 100, "warning"), (50, 100, "error")]
)
def test_how_bad_an_overlap_is(tmp_path, count, of, severity):
    validation = [*clean("train", count), *clean("validation", of - count)]
    findings = found(tmp_path, train=clean("train", 100), validation=validation)
    assert {code: finding.severity for code, finding in findings.items()} == {"overlap-train-validation": severity}


def test_overlap_of_validation_with_test(tmp_path):
    same = {"text": "validation text 0", "label": "a"}
    findings = found(tmp_path, train=clean("train"), validation=clean("validation"), test=[*clean("test"), same])
    assert findings.keys() == {"overlap-validation-test"} and where(findings["overlap-validation-test"]) == ["test 61"]


def test_duplicates_by_part(tmp_path):
    train = with_texts("train", "train text 1", "TRAIN text, 1", "train text 2")
    findings = found(tmp_path, train=train, test=with_texts("test", "test text 1"))
    train, test = findings.pop("duplicates-train"), findings.pop("duplicates-test")
    assert (train.count, train.of, where(train)) == (
        3,
        100,
        ["train 98", "train 99", "train 100"],
    ) and "(2 exactly)" in train.what
    assert (test.count, test.severity) == (1, "warning")


def test_few_duplicates_are_a_note(tmp_path):
    rows = clean("train", 300)
    rows[200]["text"] = rows[0]["text"]
    assert [finding.severity for finding in found(tmp_path, train=rows).values()] == ["note"]


def test_one_text_under_two_labels(tmp_path):
    train, test = clean("train", 100), clean("test", 100)
    test[7] = {"text": "train text 2", "label": "b"}  # a in train
    train[50] = {"text": "train text 4", "label": "a"}  # as before
    finding = found(tmp_path, train=train, test=test)["contradiction"]
    assert (finding.count, finding.of, where(finding), finding.severity) == (2, 200, ["train 3", "test 8"], "warning")


def test_one_label_is_no_contradiction(tmp_path):
    train = clean("train", 100)
    train[50] = train[0]
    assert found(tmp_path, train=train).keys() == {"duplicates-train"}


def test_words_with_other_tags(tmp_path):
    train = tagged("train")
    train[1] = {"tokens": train[0]["tokens"], "tags": ["O", "O", "O", "B-LOC"]}
    assert found(tmp_path, train=train).keys() == {"contradiction", "duplicates-train"}


def test_words_are_not_joined_before_they_are_compared_exactly(tmp_path):
    train = tagged("train", ("B-PER", "I-PER", "O"))
    train[1] = {
        "tokens": [f"{train[0]['tokens'][0]} {train[0]['tokens'][1]}", train[0]["tokens"][2], "."],
        "tags": train[0]["tags"],
    }
    finding = found(tmp_path, train=train)["duplicates-train"]
    assert finding.count == 1 and "(0 exactly)" in finding.what


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Where's my  parcel?", "wheres my parcel"),
        ("STRASSE", "straße"),
        ("a\u200bb\x00c", "ABC"),
        ("«да»", "ДА"),
        ("?!", "?!"),
    ],
)
def test_what_is_the_same(text, same):
    assert loosened(text) == loosened(same)


@pytest.mark.parametrize(("text", "other"), [("?", "!"), ("कि", "की"), ("5 €", "5 $"), ("🙂", "🙁"), ("a b", "a c")])
def test_what_is_not_the_same(text, other):
    assert loosened(text) != loosened(other)
