"""Small data with one fault each, for the tests of `check`."""

from tiny_task import write_jsonl

from clm_kernels.finetune.checking.checked import check_files
from clm_kernels.finetune.config import Data

PARTS = ("train", "validation", "test")


def clean(part, count=60):
    """Texts of two labels; no text of one part stands in another."""
    return [{"text": f"{part} text {i}", "label": "ab"[i % 2]} for i in range(count)]


def tagged(part, tags=("B-PER", "I-PER", "O", "B-LOC"), count=20):
    """Sentences that are tagged alike, no two with the same words."""
    return [{"tokens": [part, *(f"w{i}" for _ in tags[1:])], "tags": list(tags)} for i in range(count)]


def files(folder, **parts):
    """`Data` of rows by part; clean ones for train where none are given."""
    return Data(**{part: write_jsonl(folder / f"{part}.jsonl", rows) for part, rows in parts.items()})


def checked(folder, rare=5, model="", **parts):
    """What `check` finds in rows by part."""
    data = files(folder, **parts)
    return check_files(Data(**{part: getattr(data, part) for part in PARTS}, model=model), rare)


def found(folder, rare=5, model="", **parts):
    """The findings by code; every one has a code of its own."""
    findings = checked(folder, rare, model, **parts).findings
    assert len({finding.code for finding in findings}) == len(findings)
    return {finding.code: finding for finding in findings}


def where(finding):
    """Its places, as ``train 3``."""
    return [f"{place.file.rsplit('/', 1)[-1].partition('.')[0]} {place.where.split()[1]}" for place in finding.places]
