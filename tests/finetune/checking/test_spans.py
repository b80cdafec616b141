"""Findings about tags that mark spans."""

import needs_datasets  # noqa: F401
import pytest
from checks import checked, found, where

from clm_kernels.finetune.checking.spans import scheme


def sentences(*lines, count=6):
    """Each line of tags, so many times, no two sentences alike."""
    rows = [line.split() for line in lines for _ in range(count)]
    return [{"tokens": [f"w{i}x{j}" for j in range(len(tags))], "tags": tags} for i, tags in enumerate(rows)]


SOUND = {
    "IOB2": ("B-A I-A O B-B", "B-A B-A I-A", "O O B-B I-B I-B", "B-A B-B I-B"),
    "IOBES": ("B-A E-A O S-B", "S-A S-A B-B I-B E-B", "O B-B E-B"),
    "bare": ("B I I O B", "B B O"),
}


@pytest.mark.parametrize("named", SOUND)
def test_sound_tags(tmp_path, named):
    result = checked(tmp_path, train=sentences(*SOUND[named]))
    assert (result.findings, scheme(result.seen)) == ([], named.replace("bare", "IOB2"))


BROKEN = {
    "O I-A O O": ("IOB2", 1),
    "I-A O O O": ("IOB2", 1),  # at the beginning
    "B-B I-A O O": ("IOB2", 1),
    "B-A O I-A I-A": ("IOB2", 1),
    "I-A O I-B O": ("IOB2", 2),
    "B-A I-A O O": ("IOBES", 1),
    "B-A O O O": ("IOBES", 1),
    "B-A B-A E-A O": ("IOBES", 1),
    "O O O B-A": ("IOBES", 1),  # at the end
    "O E-A O O": ("IOBES", 1),
    "S-A E-A O O": ("IOBES", 1),
    "B-A E-B O O": ("IOBES", 2),
}


@pytest.mark.parametrize("tags", BROKEN)
def test_broken_tags(tmp_path, tags):
    named, wrong = BROKEN[tags]
    rows = sentences(*SOUND[named])
    rows[4:4] = [{"tokens": ["a", "b", "c", "d"], "tags": tags.split()}]
    result = checked(tmp_path, rare=1, train=rows)
    (finding,) = result.findings
    assert scheme(result.seen) == named
    assert (finding.code, finding.severity, finding.count, finding.of) == ("broken-spans", "warning", 1, len(rows))
    assert where(finding) == ["train 5"] and f"rows have {wrong} tags that {named}" in finding.what


def test_a_row_counts_once_and_parts_are_told_apart(tmp_path):
    test = [{"tokens": ["a", "b", "c"], "tags": ["I-A", "O", "I-B"]}, {"tokens": ["d", "e"], "tags": ["B-A", "I-A"]}]
    finding = found(tmp_path, train=sentences(*SOUND["IOB2"]), test=test)["broken-spans"]
    assert (finding.count, where(finding)) == (1, ["test 1"])


def test_iob1_and_io_are_named(tmp_path):
    result = checked(tmp_path, train=sentences("I-A I-A O I-B", "I-A B-A I-A O", "O I-B I-A"))
    (finding,) = result.findings
    assert (scheme(result.seen), finding.code, finding.severity) == ("IOB1", "scheme", "note")
    result = checked(tmp_path, train=sentences("I-A I-A O I-B", "O I-B I-A"))
    (finding,) = result.findings
    assert (scheme(result.seen), finding.code, finding.severity) == ("IO", "scheme", "note")


def test_schemes_that_are_not_scored_by_spans(tmp_path):
    for rows in (sentences("B-A L-A O U-B", "B-B I-B L-B U-A"), sentences("B-A M-A E-A O S-B", "S-A B-B M-B E-B")):
        result = checked(tmp_path, train=rows)
        (finding,) = result.findings
        assert (finding.code, finding.severity, scheme(result.seen)) == ("scheme", "warning", None)


def test_tags_that_mark_no_spans(tmp_path):
    result = checked(tmp_path, train=sentences("NOUN VERB O", "VERB NOUN NOUN"))
    assert (result.findings, scheme(result.seen)) == ([], None)


def test_labels_of_texts_are_no_tags(tmp_path):
    rows = [{"text": f"text {i}", "label": ["I-A", "O"][i % 2]} for i in range(20)]
    result = checked(tmp_path, train=rows)
    assert (result.findings, scheme(result.seen)) == ([], None)
