"""README.md of what is exported: a card as the hub reads it. Scores, data and options are the run's own; no path of a machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...errors import require
from ...escaping import code, markdown
from ...recipe import TEXT
from ...strangers import MEGABYTE, brief, fits, inside, read_json
from ..artifacts import CARD, REPORT, RUN
from ..config import OPTIONS
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
VALUE = (str, int, float, bool, None)  # of an option
PART = {"rows": int, "path": str, "address": str, "sha256": str, "carved_from": str}
DATA = {"task": str} | {part: {f"{name}?": form for name, form in PART.items()} for part in ("train", "validation", "test")}
FORM = {
    "config": {str: VALUE}, "trained": int, "parameters": int, "test": (None, {str: float}), "cut": {str: int}, "made_on": {str: str},
    "windows": {str: {"texts": int, "windows": int}},
    "data": {f"{name}?": form for name, form in DATA.items()},
}  # fmt: skip
TOLD = tuple(FORM)  # what a card reads of a report
INTERVAL = {"score": float, "low": float, "high": float}
Z = 1.96  # of a 95 % interval


def write_card(folder: Path, served: Served, kind: str, run: Path, compared: list[str]) -> None:
    """Writes the card of an exported folder.

    Args:
        kind: a key of `LIBRARIES`.
        run: the folder of the run, with its record and report if there are any.
        compared: what was found when the export was held against the trained model.
    """
    config, report = read_told(run)
    name, base = folder.name, _name(str(config.get("model", "")))
    blocks = [_header(served, kind, name, base, report), f"# {markdown(name)}", _about(served, base, report), _use(served, kind)]
    blocks += [_scores(report, run), _data(report), _made(config, report), _limits(served, report, compared)]
    (folder / CARD).write_text("\n\n".join(filter(None, blocks)) + "\n", encoding="utf-8")


def read_told(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a run, and of its report what a card tells; both empty where there is none.

    Raises:
        ValueError: if the report is of another form.
    """
    path, report = run / REPORT, dict[str, Any]()
    if path.is_file():
        with inside("export", path):
            known = read_json(path, "export", "the report of a run", most=16 * MEGABYTE)
            report = {name: known[name] for name in TOLD if name in known}
            report["data"] = {name: _part(part) for name, part in _object(report.get("data", {}), "data").items() if name in DATA}
            wrong = next((name for name, form in FORM.items() if name in report and not fits(report[name], form)), None)
            require(wrong is None, "export", f"its {wrong}", "of the form that train gives it", brief(report.get(wrong or "")))
            lacking = next((name for name in ("trained", "parameters") if name not in report), None)
            require(lacking is None, "export", f"its {lacking}", "given", "nothing")
    config = report.get("config") or (_object(_json(run / RUN).get("config", {}), "config") if (run / RUN).is_file() else {})
    return {name: value for name, value in config.items() if name in OPTIONS and fits(value, VALUE)}, report


def _object(value: Any, name: str) -> dict[str, Any]:
    require(isinstance(value, dict), "export", f"its {name}", "names and values", brief(value))
    return value


def _part(part: Any) -> Any:
    """What is told of one file of data; of the task its name."""
    return {name: part[name] for name in PART if name in part} if isinstance(part, dict) else part


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
        lines += [
            "metrics:",
            *(f"- {json.dumps(key)}" for key in scores),
            "model-index:",
            f"- name: {json.dumps(name)}",
            "  results:",
        ]
        lines += [
            "  - task:",
            f"      type: {task}",
            "    dataset:",
            f"      name: {json.dumps(_file(report, 'test'))}",
            "      type: own",
        ]
        lines += ["    metrics:"]
        for key, value in scores.items():
            lines += [f"    - type: {json.dumps(key)}", f"      value: {value:.4f}"]
    return "\n".join([*lines, "---"])


def _about(served: Served, base: str, report: dict[str, Any]) -> str:
    what = "tags words" if served.task.per_token else "gives texts any number" if served.task.several else "classifies texts"
    made = f"A fine-tuned {markdown(base)}" if base else "A fine-tuned model"
    trained = f", {report['trained']:,} of whose {report['parameters']:,} numbers were trained" if report else ""
    labels = ", ".join(code(label) for label in served.labels[:200])
    of = "of" if served.task.several else "with"
    told = f"{made}{trained}, that {what} {of} {len(served.labels)} labels:\n\n{labels}{' …' * (len(served.labels) > 200)}"
    return "\n\n".join(filter(None, [told, _thresholds(served)]))


def _use(served: Served, kind: str) -> str:
    if kind == "onnx":
        client = Path(__file__).with_name("onnx_client.py").read_text(encoding="utf-8")
        return f"## To use it\n\nIn Python, with `pip install onnxruntime numpy tokenizers`:\n\n```python\n{client}```"
    if kind == "embedding":
        lines = ["from sentence_transformers import SentenceTransformer", "", "SentenceTransformer(FOLDER).encode(TEXTS)"]
    else:
        task = "token-classification" if served.task.per_token else "text-classification"
        lines = ["from transformers import pipeline", "", f'pipeline("{task}", model=FOLDER, truncation=True)(TEXTS)']
        lines = [line.replace(", truncation=True", "") for line in lines] if served.task.per_token else lines
        lines = SEVERAL.splitlines() if served.thresholds else lines
    around = f"\n\nEvery text is to be given as {code(served.template)}." if served.template != TEXT else ""
    return "\n".join(["## To use it", "", "```python", *lines, "```"]) + around


def _thresholds(served: Served) -> str:
    if not served.thresholds:
        return ""
    rows = [f"| {code(label)} | {least:.4f} |" for label, least in zip(served.labels, served.thresholds, strict=True)]
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
        f"## Scores\n\nOn {markdown(_file(report, 'test'))}, scored once, after all choices were made on validation data:\n",
        "| | score | 95 % interval |",
        "|---|---|---|",
    ]
    count = report["data"].get("test", {}).get("rows", 0)
    for key, value in test.items():
        if key == "loss":
            continue
        told, share = judged.get("scores", {}).get(key), _is_share(report, key) and count > 0 and 0 <= value <= 1
        interval = (told["low"], told["high"]) if told else wilson(value, count) if share else None
        shown = "{:.1%} to {:.1%}".format(*interval) if interval else "not computed"
        rows.append(f"| {markdown(key.replace('_', ' '))} | {value:.1%} | {shown} |")
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
    data, scores = evaluation.get("data"), evaluation.get("scores")
    known = isinstance(data, str) and isinstance(scores, dict) and all(_is_interval(one) for one in scores.values())
    return known and _name(data) == _name(report["data"].get("test", {}).get("path", ""))


def _is_interval(told: Any) -> bool:
    return isinstance(told, dict) and fits({name: told.get(name) for name in INTERVAL}, INTERVAL)


def _data(report: dict[str, Any]) -> str:
    if not report:
        return ""
    lines = ["## Data", "", "| part | file | rows | SHA-256 |", "|---|---|---|---|"]
    for part in ("train", "validation", "test"):
        known = report["data"].get(part)
        if known:
            mark = f"`{markdown(known['sha256'][:16])}…`" if "sha256" in known else "a part of the training file"
            lines.append(f"| {part} | {markdown(_file(report, part))} | {known.get('rows', 0):,} | {mark} |")
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
    return f"## How it was made\n\nWith {', '.join(f'{markdown(key)} {markdown(value)}' for key, value in versions.items())}; options of `clm-kernels train`:\n\n```yaml\n{told}\n```"


def _limits(served: Served, report: dict[str, Any], compared: list[str]) -> str:
    unit = served.task.unit
    lines = [f"- {unit.capitalize()} beyond {served.max_length} tokens are cut off."]
    if long_of(served.model.config) == "window":
        pooled = (
            "by one of which `clm-kernels predict` tags each word"
            if served.task.per_token
            else "whose logits `clm-kernels predict` averages"
        )
        trained = f"It was trained on windows of long texts, {pooled}"
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
        counts = ", ".join(str(report["cut"][name]) for name in few)
        lines.append(f"- In {', '.join(map(markdown, few))}, {counts} {unit} were cut off.")
    for name, found in report.get("windows", {}).items():
        lines.append(f"- In {markdown(name)}, {found['texts']:,} texts were read in {found['windows']:,} windows.")
    return "\n".join(["## Limits", "", *lines, *(f"- {markdown(line)}" for line in compared)])


def _file(report: dict[str, Any], part: str) -> str:
    known = report["data"].get(part, {})
    return known.get("address") or _name(known.get("path") or known.get("carved_from", ""))


def _name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, "export", "a record") if path.is_file() else {}
