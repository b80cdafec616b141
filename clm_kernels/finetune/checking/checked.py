"""`check_files` and `check_corpus`: from rows to findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..data import Corpus, find_task
from ..examples import read_examples
from ..parts import called
from .cuts import cut_off, unknown_tokens
from .finding import SEVERITIES, Finding, worst
from .labels import labels_alike, labels_without_meaning, lonely_labels, rare_labels, unknown_labels
from .lengths import Lengths, Limit
from .parts import Part, Seen
from .rows import bad_rows, swapped, texts_without_meaning
from .spans import broken_spans, other_schemes, scheme
from .texts import contradictions, duplicates, overlaps

if TYPE_CHECKING:
    from ..config import Data
    from ..tasks import Task

RARE = 5  # texts, or words, of a label
RULES = (  # of two findings that are equally bad the one that stands first is the worse
    bad_rows, unknown_labels, texts_without_meaning, overlaps, swapped, labels_alike, labels_without_meaning, contradictions,
    broken_spans, other_schemes, duplicates, cut_off, unknown_tokens, rare_labels, lonely_labels,
)  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """What was read, and what was found in it, the worst first."""

    task: str
    seen: Seen
    findings: list[Finding]

    def as_json(self) -> dict[str, Any]:
        """Parts with their labels, and the findings, as JSON has it."""
        labels = self.seen.labels
        parts = {
            part.name: {
                "path": part.path,
                "rows": len(part),
                "bad_rows": part.left_out,
                "labels": dict(sorted(zip(labels, part.counts(len(labels)).tolist()), key=lambda pair: -pair[1])),
            }
            for part in self.seen.parts
        }
        findings = [finding.as_json() for finding in self.findings]
        return {
            "task": self.task,
            "scheme": scheme(self.seen),
            "worst": worst(self.findings),
            "parts": parts,
            "findings": findings,
        }


def check_files(data: Data, rare: int = RARE) -> Checked:
    """Reads the files of `data` to their ends, whatever rows cannot be read, and finds what is wrong with them.

    Args:
        data: as `train` takes it; with a model, its tokenizer says what is cut off and unknown.
        rare: how often a label must be in train not to be called rare.

    Raises:
        ValueError: if a file is missing, empty or of an unknown kind, if no row tells the task, or if there is no such model.
    """
    task = find_task(replace(data, skip_bad_rows=True))
    task.check(data)
    limit = Limit(data, task) if data.model else None
    names = _Numbers()
    files = {"train": data.train, "validation": data.validation, "test": data.test}
    return _checked(task, [_part(name, path, task, data, names, limit) for name, path in files.items() if path], names, rare)


def check_corpus(corpus: Corpus, rare: int = RARE) -> Checked:
    """The same of what a run has read; what is cut off is not looked for."""
    names, parts = _Numbers(), []
    for name, split in corpus.splits.items():
        part = Part(name, called(split.path))
        _take(part, zip(split.where, split.texts, split.labels, strict=True), corpus.task, names)
        parts.append(part)
    return _checked(corpus.task, parts, names, rare)


class _Numbers(defaultdict[str, int]):
    """Label -> its number; a new label gets the next one."""

    def __missing__(self, label: str) -> int:
        self[label] = number = len(self)
        return number


def _part(name: str, path: str, task: Task, data: Data, names: _Numbers, limit: Limit | None) -> Part:
    part = Part(name, called(str(path)), lengths=Lengths(limit) if limit else None)
    _take(part, read_examples(path, task, data, bad=part.leave_out), task, names)
    if part.lengths is not None:
        part.lengths.measure()
    return part


def _take(part: Part, examples: Iterable[tuple[str, Any, Any]], task: Task, names: _Numbers) -> None:
    for where, text, label in examples:
        part.take(where, text, [names[name] for name in task.label(label)])


def _checked(task: Task, parts: list[Part], names: _Numbers, rare: int) -> Checked:
    seen = Seen(parts, dict(names), task.per_token, task.unit, rare)
    findings = [finding for rule in RULES for finding in rule(seen)]
    return Checked(task.name, seen, sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
