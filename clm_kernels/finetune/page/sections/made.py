"""The data, the options and the versions of a run."""

from __future__ import annotations

from typing import Any

from ...config import PATHS
from ..content import Content
from ..markup import NOTHING, Html, joined, named, table, tag
from ..numbers import percent, short

HASHED, ADDRESS = 16, 200  # letters of a checksum, and of where data came from
PARTS = ("train", "validation", "test")


def told(content: Content) -> Html:
    report = content.report
    if report is None:
        return NOTHING
    options = [[name, named(_shown(report, name, value))] for name, value in report.config.items() if value not in ("", None)]
    versions = [[name, named(value)] for name, value in report.made_on.items()]
    more = (
        tag("details", tag("summary", "Options"), table(["option", "value"], options, "Options", 2)),
        tag("details", tag("summary", "Versions and machine"), table(["", ""], versions, "Versions", 2)),
    )
    return joined([table(["part", "file", "SHA-256", "texts", "cut off"], _parts(report), "Data", 3), _trained(report), *more])


def _parts(report: Any) -> list[list[Any]]:
    rows = []
    for part in PARTS:
        if known := report.data.get(part):
            mark = tag("code", f"{known['sha256'][:HASHED]}…") if "sha256" in known else "a part of the training file"
            file = known.get("address") or _last(known.get("path") or known.get("carved_from", ""))
            rows.append([part, named(file, ADDRESS), mark, f"{known['rows']:,}", _cut(report, part)])
    return rows


def _cut(report: Any, part: str) -> str:
    cut, windows = f"{report.cut.get(part, 0):,}", report.windows.get(part)
    return f"{cut} ({windows['texts']:,} in {windows['windows']:,} windows)" if windows else cut


def _trained(report: Any) -> Html:
    """How much of each part of the layers was chosen."""
    parts: dict[str, list[int]] = {}
    for line in report.selection:
        if line["selected_entries"]:
            counts = parts.setdefault(line["part"], [0, 0, 0])
            for i, count in enumerate((1, line["selected_entries"], line["entries"])):
                counts[i] += count
    if not parts:
        return NOTHING
    rows = [
        [named(part), f"{weights:,}", short(chosen), percent(chosen / max(1, of))]
        for part, (weights, chosen, of) in parts.items()
    ]
    header = ["part of a layer", "weights", "entries trained", "of all of theirs"]
    return joined([tag("h3", "What is trained"), table(header, rows, "What is trained")])


def _shown(report: Any, name: str, value: Any) -> str:
    if address := report.data.get(name, {}).get("address") if name in PARTS else "":
        return address
    return _last(value) if name in PATHS and isinstance(value, str) else str(value)


def _last(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]
