"""README.md of what is exported: a card as the hub reads it. Scores, data and options are the run's own; no path of a machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...escaping import visible
from ...recipe import TEXT
from ..artifacts import CARD, REPORT, RUN
from ..outputs import read_json
from ..windows import long_of
from .served import Served

LIBRARIES = {"checkpoint": "transformers", "onnx": "onnx", "embedding": "sentence-transformers"}
NOT_OPTIONS = (
    "model",
    "train",
    "validation",
    "test",
    "output",
    "selection",
    "replay_file",
    "resume",
    "overwrite",
    "keep_checkpoints",
)
# The pipeline's own scores are those before the temperature, and it knows no thresholds; both stand in the config.
SEVERAL = """\
from math import tanh
from transformers import pipeline

classify = pipeline("text-classification", model=FOLDER, truncation=True, top_k=None, function_to_apply="none")
config = classify.model.config
least = dict(zip(config.label2id, config.clm_calibration["thresholds"]))

def probability(logit):
    return 0.5 + 0.5 * tanh(logit / config.clm_calibration["temperature"] / 2)

[[one["label"] for one in text if probability(one["score"]) >= least[one["label"]]] for text in classify(TEXTS)]"""
Z = 1.96  # of a 95 % interval


def write_card(folder: Path, served: Served, kind: str, run: Path, compared: list[str]) -> None:
    """Writes the card of an exported folder.

    Args:
        kind: a key of `LIBRARIES`.
        run: the folder of the run, with its record and report if there are any.
        compared: what was found when the export was held against the trained model.
    """
    report = _json(run / REPORT)
    config = report.get("config") or _json(run / RUN).get("config") or {}
    name, base = folder.name, _name(config.get("model", ""))
    blocks = [_header(served, kind, name, base, report), f"# {visible(name)}", _about(served, base, report), _use(served, kind)]
    blocks += [_scores(report, run), _data(report), _made(config, report), _limits(served, report, compared)]
    (folder / CARD).write_text("\n\n".join(filter(None, blocks)) + "\n", encoding="utf-8")


def _header(served: Served, kind: str, name: str, base: str, report: dict[str, Any]) -> str:
    task = "token-classification" if served.task.per_token else "text-classification"
    pipeline = "feature-extraction" if kind == "embedding" else task
    lines = [
        "---",
        *([f"base_model: {json.dumps(base)}"] if base else []),
        f"library_name: {LIBRARIES[kind]}",
        f"pipeline_tag: {pipeline}",
    ]
    scores = {key: value for key, value in (report.get("test") or {}).items() if key != "loss"}
    lines += ["tags:", "- clm-kernels"]
    if scores:
        lines += ["metrics:", *(f"- {key}" for key in scores), "model-index:", f"- name: {json.dumps(name)}", "  results:"]
        lines += [
            "  - task:",
            f"      type: {task}",
            "    dataset:",
            f"      name: {json.dumps(_file(report, 'test'))}",
            "      type: own",
        ]
        lines += ["    metrics:"]
        for key, value in scores.items():
            lines += [f"    - type: {key}", f"      value: {value:.4f}"]
    return "\n".join([*lines, "---"])


def _about(served: Served, base: str, report: dict[str, Any]) -> str:
    what = "tags words" if served.task.per_token else "gives texts any number" if served.task.several else "classifies texts"
    made = f"A fine-tuned {visible(base)}" if base else "A fine-tuned model"
    trained = f", {report['trained']:,} of whose {report['parameters']:,} numbers were trained" if report else ""
    labels = ", ".join(f"`{visible(label)}`" for label in served.labels[:200])
    of = "of" if served.task.several else "with"
    told = f"{made}{trained}, that {what} {of} {len(served.labels)} labels:\n\n{labels}{' …' * (len(served.labels) > 200)}"
    return "\n\n".join(filter(None, [told, _thresholds(served)]))


def _use(served: Served, kind: str) -> str:
    if kind == "onnx":
        code = Path(__file__).with_name("onnx_client.py").read_text(encoding="utf-8")
        return f"## To use it\n\nIn Python, with `pip install onnxruntime numpy tokenizers`:\n\n```python\n{code}```"
    if kind == "embedding":
        lines = ["from sentence_transformers import SentenceTransformer", "", "SentenceTransformer(FOLDER).encode(TEXTS)"]
    else:
        task = "token-classification" if served.task.per_token else "text-classification"
        lines = ["from transformers import pipeline", "", f'pipeline("{task}", model=FOLDER, truncation=True)(TEXTS)']
        lines = [line.replace(", truncation=True", "") for line in lines] if served.task.per_token else lines
        lines = SEVERAL.splitlines() if served.thresholds else lines
    around = f"\n\nEvery text is to be given as `{visible(served.template)}`." if served.template != TEXT else ""
    return "\n".join(["## To use it", "", "```python", *lines, "```"]) + around


def _thresholds(served: Served) -> str:
    if not served.thresholds:
        return ""
    rows = [f"| `{visible(label)}` | {least:.4f} |" for label, least in zip(served.labels, served.thresholds, strict=True)]
    told = "A text gets each label whose calibrated probability is at least this, by which validation was best:"
    return "\n".join(["## Thresholds", "", told, "", "| label | threshold |", "|---|---|", *rows])


def _scores(report: dict[str, Any], run: Path) -> str:
    test = report.get("test")
    if not test:
        return "## Scores\n\nNo test data was given."
    judged = next(
        (found for path in sorted(run.glob("evaluation-*/evaluation.json")) if _of_test(found := _json(path), report)), {}
    )
    rows = [
        f"## Scores\n\nOn {_file(report, 'test')}, scored once, after all choices were made on validation data:\n",
        "| | score | 95 % interval |",
        "|---|---|---|",
    ]
    count = report["data"]["test"]["rows"]
    for key, value in test.items():
        if key == "loss":
            continue
        interval = judged.get("scores", {}).get(key, {})
        low, high = (
            (interval["low"], interval["high"])
            if "low" in interval
            else wilson(value, count)
            if _is_share(report, key)
            else (None, None)
        )
        rows.append(
            f"| {key.replace('_', ' ')} | {value:.1%} | {f'{low:.1%} to {high:.1%}' if low is not None else 'not computed'} |"
        )
    source = "a bootstrap over texts (`clm-kernels evaluate`)" if judged else "Wilson's, over texts"
    return "\n".join([*rows, "", f"Intervals: {source}."])


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson 1927)."""
    middle, scale = share + Z * Z / (2 * count), 1 + Z * Z / count
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return (middle - half) / scale, (middle + half) / scale


def _is_share(report: dict[str, Any], score: str) -> bool:
    """Whether the score is a share of the texts, which words of one text are not: they hang together."""
    return score == "accuracy" and report["data"].get("task") == "sequence"


def _of_test(evaluation: dict[str, Any], report: dict[str, Any]) -> bool:
    return bool(evaluation) and _name(evaluation.get("data", "")) == _name(report["data"].get("test", {}).get("path", ""))


def _data(report: dict[str, Any]) -> str:
    if not report:
        return ""
    lines = ["## Data", "", "| part | file | rows | SHA-256 |", "|---|---|---|---|"]
    for part in ("train", "validation", "test"):
        known = report["data"].get(part)
        if known:
            mark = f"`{known['sha256'][:16]}…`" if "sha256" in known else "a part of the training file"
            lines.append(f"| {part} | {_file(report, part)} | {known['rows']:,} | {mark} |")
    return "\n".join(lines)


def _made(config: dict[str, Any], report: dict[str, Any]) -> str:
    if not config:
        return ""
    kept = {key: value for key, value in config.items() if key not in NOT_OPTIONS and value not in ("", None)}
    versions = {
        "clm_kernels": __version__,
        **{key: value for key, value in report.get("made_on", {}).items() if key != "platform"},
    }
    told = "\n".join(f"{key}: {json.dumps(value)}" for key, value in kept.items())
    return f"## How it was made\n\nWith {', '.join(f'{key} {value}' for key, value in versions.items())}; options of `clm-kernels train`:\n\n```yaml\n{told}\n```"


def _limits(served: Served, report: dict[str, Any], compared: list[str]) -> str:
    unit = served.task.unit
    lines = [f"- {unit.capitalize()} beyond {served.max_length} tokens are cut off."]
    if long_of(served.model.config) == "window":
        trained = "It was trained on windows of long texts, whose logits `clm-kernels predict` averages"
        lines = [f"- {trained}; elsewhere {unit} beyond {served.max_length} tokens are cut off."]
    if served.temperature != 1:
        alone = "sigmoid" if served.task.several else "softmax"
        lines.append(
            f"- Its probabilities are calibrated at temperature {served.temperature:.3g}; the {alone} of the logits alone is not."
        )
    if served.task.several:
        lines.append(
            "- It gives a text each label whose calibrated probability reaches the label's threshold, and none where none does."
        )
    elif not served.task.per_token:
        lines.append("- It gives one of its labels to every text, also to one that fits none of them.")
    few = [name for name, count in (report.get("cut") or {}).items() if count]
    if few:
        lines.append(f"- In {', '.join(few)}, {', '.join(str(report['cut'][name]) for name in few)} {unit} were cut off.")
    for name, found in (report.get("windows") or {}).items():
        lines.append(f"- In {name}, {found['texts']:,} {unit} were read in {found['windows']:,} windows.")
    return "\n".join(["## Limits", "", *lines, *(f"- {line}" for line in compared)])


def _file(report: dict[str, Any], part: str) -> str:
    known = report["data"].get(part, {})
    return known.get("address") or _name(known.get("path") or known.get("carved_from", ""))


def _name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
