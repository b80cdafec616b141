"""Which labels are taken for each other: the matrix with its counts, or where it is large as a map, and the worst pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...judging.classes import neighbourly
from ...judging.confusion_picture import shortened
from ..content import Content, Judgement
from ..markup import NOTHING, Html, joined, named, paragraph, table, tag
from ..numbers import percent

COUNTED, DRAWN = 24, 150  # labels up to which every cell shows its count; that are drawn at most
PITCH, NAMES, LETTERS = 10, 150, 26  # of the map, in points: a label's line, room for names; and letters of these
LEAST = 0.3  # side of the smallest mark, of a cell's


def told(content: Content) -> Html:
    judged = content.judged
    if judged is None or not (judged.confused or judged.matrix is not None):
        return NOTHING
    return joined([_pairs(judged), _matrix(judged)])


def _pairs(judged: Judgement) -> Html:
    if not judged.confused:
        return paragraph("No label was taken for another.")
    head = ["lacking", "in excess"] if judged.several else ["label", "taken for"]
    rows = ([named(one.gold), named(one.predicted), f"{one.errors:,} of {one.support:,}", percent(one.errors / max(1, one.support), 0)]
            for one in judged.confused)  # fmt: skip
    what = (
        "Texts that lack one label and have another in excess"
        if judged.several
        else "The pairs of labels that were confused most often"
    )
    return joined([paragraph(f"{what}, with how many of the label's own {'texts' if judged.several else judged.unit} that is."),
                   table([*head, "how many", "share"], rows, what, 2)])  # fmt: skip


def _matrix(judged: Judgement) -> Html:
    if judged.matrix is None:
        return NOTHING
    chosen, size = _chosen(judged.matrix), len(judged.label_names)
    matrix, names = judged.matrix[np.ix_(chosen, chosen)], [judged.label_names[i] for i in chosen]
    shares = matrix / np.maximum(1, judged.matrix.sum(1)[chosen])[:, None]
    left = f" The {len(chosen)} labels with the most mistakes are shown, of {size:,}." if len(chosen) < size else ""
    cut = f" {judged.cut_off:,} {judged.unit} were cut off and have no prediction." if judged.cut_off else ""
    near = " Labels that are taken for each other stand side by side."
    if len(chosen) <= COUNTED:
        said = f"Rows are the right labels, columns what they were taken for; the darker, the larger the share of the row.{near}{left}{cut}"
        return joined([tag("h3", "All of them"), paragraph(said), _counts(matrix, shares, names)])
    said = f"Rows are the right labels, columns what they were taken for; the larger a square, the larger the share of the row. Right ones are hollow.{near}{left}{cut}"
    drawn = tag("div", _map(shares, names), class_="scroll map", tabindex="0", role="region", aria_label="Map of the confusion")
    return joined([tag("h3", "All of them"), paragraph(said), drawn])


def _chosen(matrix: NDArray) -> NDArray:
    """Numbers of the labels that are shown, in their order."""
    size = len(matrix)
    counts = matrix[:, :size]
    errors = counts.sum(0) + matrix.sum(1) - 2 * np.diag(counts)
    most = np.sort(np.argsort(-errors, kind="stable")[:DRAWN])
    return most[neighbourly(counts[np.ix_(most, most)])]


def _counts(matrix: NDArray, shares: NDArray, names: list[str]) -> Html:
    head = tag("tr", tag("td", ""), *(tag("th", tag("span", named(shortened(name, LETTERS))), scope="col") for name in names))
    rows = [
        tag("tr", tag("th", named(shortened(name, LETTERS)), scope="row"), *_cells(i, counts.tolist(), row.tolist()))
        for i, (name, counts, row) in enumerate(zip(names, matrix, shares, strict=True))
    ]
    made = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag("div", made, class_="scroll matrix", tabindex="0", role="region", aria_label="Confusion matrix")


def _cells(own: int, counts: list[int], shares: list[float]) -> Iterator[Html]:
    for i, (count, share) in enumerate(zip(counts, shares, strict=True)):
        kind = " ".join(filter(None, ["own" if i == own else "", "dark" if share > 0.5 else ""])) or None
        yield tag("td", f"{count:,}" if count else "·", class_=kind, style=f"--share:{share:.2f}" if count else None)


def _map(shares: NDArray, names: list[str]) -> Html:
    size = len(names)
    whole = NAMES + PITCH * size
    short = [shortened(name, LETTERS) for name in names]
    lines = [
        tag("text", named_in_map(name), x=NAMES - 4, y=NAMES + PITCH * (i + 0.75), text_anchor="end")
        for i, name in enumerate(short)
    ]
    lines += [
        tag("text", named_in_map(name), transform=f"translate({NAMES + PITCH * (i + 0.75):g} {NAMES - 4}) rotate(-90)")
        for i, name in enumerate(short)
    ]
    grid = "".join(f"M{NAMES} {y}H{whole}M{y} {NAMES}V{whole}" for y in range(NAMES, whole + 1, PITCH))
    marks = (_mark(int(gold), int(predicted), float(shares[gold, predicted])) for gold, predicted in np.argwhere(shares > 0))
    inside = [tag("path", d=grid, class_="grid"), *lines, *marks]
    return tag("svg", *inside, viewBox=f"0 0 {whole} {whole}", width=whole, height=whole, role="img", aria_label="Confusion")


def named_in_map(name: str) -> str:
    return " ".join(name.split())


def _mark(gold: int, predicted: int, share: float) -> Html:
    side = (PITCH - 2) * max(LEAST, share**0.5)
    x, y = (NAMES + PITCH * (i + 0.5) - side / 2 for i in (predicted, gold))
    kind = "own" if gold == predicted else "wrong"
    return tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{side:.1f}", height=f"{side:.1f}", class_=kind)
