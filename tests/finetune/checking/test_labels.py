"""Findings about labels."""

import needs_datasets  # noqa: F401
import pytest
from checks import clean, found, tagged, where

from clm_kernels.finetune.checking.finding import named


def labelled(part, labels):
    return [{"text": f"{part} text {i}", "label": label} for i, label in enumerate(labels)]


def test_a_label_that_train_lacks(tmp_path):
    findings = found(tmp_path, train=clean("train"), test=labelled("test", ["a", "b", "c", "d", "c"]))
    finding = findings.pop("unseen-test")
    assert findings == {}
    assert (finding.severity, finding.count, finding.of, where(finding)) == ("error", 3, 5, ["test 3", "test 4", "test 5"])
    assert "'c', 'd'" in finding.what


def test_both_parts_lack_it(tmp_path):
    more = {part: [*clean(part), *labelled(f"more {part}", "c" * 5)] for part in ("validation", "test")}
    findings = found(tmp_path, train=clean("train"), **more)
    assert findings.keys() == {"unseen-validation", "unseen-test"}


def test_one_label_alone(tmp_path):
    (finding,) = found(tmp_path, train=labelled("train", "aaaaaa")).values()
    assert (finding.code, finding.severity) == ("one-label", "error") and "'a'" in finding.what


def test_a_label_that_only_train_has(tmp_path):
    train = labelled("train", "ababacbbaccccb")
    findings = found(tmp_path, rare=1, train=train, test=labelled("test", "abba"))
    (finding,) = findings.values()
    assert (finding.code, finding.severity, finding.count, finding.of) == ("unscored-test", "note", 1, 3)
    assert where(finding) == ["train 6", "train 10", "train 11"]


@pytest.mark.parametrize(("rare", "count"), [(3, 0), (4, 1), (7, 2), (8, 3)])
def test_rare_labels(tmp_path, rare, count):
    findings = found(tmp_path, rare=rare, train=labelled("train", "aaaaaaabbbbbbccc"))
    assert sum(finding.count for finding in findings.values()) == count
    if count:
        finding = findings["rare-label"]
        assert (finding.severity, finding.of) == ("warning", 3) and f"fewer than {rare} texts" in finding.what
        assert finding.what.split(": ")[1].startswith("'c'")  # the rarest first


def test_rare_tags_are_counted_in_words(tmp_path):
    finding = found(tmp_path, train=[*tagged("train"), {"tokens": ["x", "y"], "tags": ["B-ORG", "I-ORG"]}])["rare-label"]
    assert (finding.count, where(finding)) == (2, ["train 21"]) and "5 words" in finding.what


@pytest.mark.parametrize("other", ["A", " a", "a ", "\uff41"])
def test_labels_that_differ_by_case_or_space(tmp_path, other):
    findings = found(tmp_path, rare=1, train=labelled("train", ["a", "b", "a", other, "b"]))
    (finding,) = findings.values()
    assert (finding.code, finding.severity, finding.count, finding.of, where(finding)) == (
        "alike-label", "warning", 2, 3, ["train 4"],
    )  # fmt: skip


def test_a_label_that_a_program_wrote_for_nothing(tmp_path):
    (finding,) = found(tmp_path, rare=1, train=labelled("train", ["a", "NaN", "none", "a"])).values()
    assert (finding.code, finding.severity, finding.count, finding.of, where(finding)) == (
        "nan-label",
        "warning",
        1,
        4,
        ["train 2"],
    )


def test_long_labels_and_lists_are_cut():
    assert named("abcdef") == "'a', 'b', 'c', 'd' and 2 more"
    assert named(["x" * 99]) == f"'{'x' * 40}…'"
