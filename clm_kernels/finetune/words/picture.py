"""A picture of the words that carry the gradient: by label, and in sentences whose words are shaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...escaping import DRAWN, visible
from ...extras import needs
from .sentences import Sentence
from .table import ActiveWords, WordEnergy

LABELS, WORDS = 10, 4  # at most, for people to read
EARLY, LATE, INK, FAINT = "#b9c4d0", "#2b6cb0", "#222222", "#777777"
WIDTH, EDGE, TOP, LINE = 1080.0, 24.0, 92.0, 14.0  # points
NAME, WORD, BAR, BAR_END, ODDS, RIGHT = 24.0, 166.0, 262.0, 420.0, 480.0, 524.0  # where the columns begin


def draw(
    words: ActiveWords, sentences: Sequence[Sentence], path: str | Path, odds: Mapping[str, Mapping[str, float]] | None = None
) -> None:  # fmt: skip
    """Writes the picture (.png, .svg, .pdf).

    Args:
        odds: label -> word -> z-score of its log-odds, where it is known.

    Raises:
        NotInstalled: without matplotlib.
    """
    paper = _Paper()
    bottom = max(_table(paper, words, odds or {}), _shaded(paper, sentences))
    paper.write(path, bottom + EDGE)


class _Paper:
    """A figure whose coordinates are points from its upper left corner."""

    def __init__(self):
        self.axes: Any = needs("matplotlib.figure", "words.draw").Figure(figsize=(WIDTH / 72, 1)).add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self._path = needs("matplotlib.textpath", "words.draw").text_to_path
        self._font = needs("matplotlib.font_manager", "words.draw").FontProperties

    def text(self, x: float, y: float, text: str, size: float = 8.5, **how: Any) -> None:
        style = {"color": INK, "va": "center", **DRAWN, **how}
        self.axes.text(x, y, visible(text), fontsize=size, **style)

    def width(self, text: str, size: float, weight: str = "normal") -> float:
        return self._path.get_text_width_height_descent(visible(text), self._font(size=size, weight=weight), False)[0]

    def fitted(self, text: str, room: float, size: float = 8.5, weight: str = "normal") -> str:
        """The text, with its end cut off if there is no room for it."""
        if self.width(text, size, weight) <= room:
            return text
        while text and self.width(f"{text}…", size, weight) > room:
            text = text[:-1]
        return f"{text.rstrip()}…"

    def box(self, x: float, y: float, width: float, height: float, color: Any) -> None:
        """`y` is its middle."""
        corner = (x, y - height / 2)
        self.axes.add_patch(needs("matplotlib.patches", "words.draw").Rectangle(corner, width, height, color=color, linewidth=0))

    def rule(self, left: float, right: float, y: float) -> None:
        self.axes.plot([left, right], [y, y], color="#dddddd", linewidth=0.7)

    def write(self, path: str | Path, height: float) -> None:
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(height, 0)
        self.axes.figure.set_size_inches(WIDTH / 72, height / 72)
        self.axes.figure.savefig(path, dpi=120)


def _table(paper: _Paper, words: ActiveWords, odds: Mapping[str, Mapping[str, float]]) -> float:
    """The words by label; gives the bottom."""
    ranked = sorted(words.by_label, key=lambda label: -max((word.share for word in words.words(label, 1)), default=0.0))
    labels = [label for label in words.by_label if label in ranked[:LABELS]]
    left_out = len(words.by_label) - len(labels)
    more = f" ({left_out} more labels)" if left_out else ""
    paper.text(EDGE, 26, "Words that carry the gradient of each label", 13, weight="bold")
    paper.text(EDGE, 48, f"share of what the label's active tokens hold{more}", color=FAINT)
    for x, color, name in ((BAR, EARLY, "first epoch"), (BAR + 78, LATE, "last epoch")):
        paper.box(x, 72, 8, 8, color)
        paper.text(x + 12, 72, name, color=FAINT)
    if odds:
        paper.text(ODDS, 72, "log-odds z", color=FAINT, ha="center")
    groups = [(label, words.words(label, WORDS), words.rest(label)) for label in labels]
    shown = [word for _, own, rest in groups for word in (*own, rest) if word]
    longest = max((max(word.early or 0.0, word.late or 0.0) for word in shown), default=0.0) or 1.0
    y = TOP
    for label, own, rest in groups:
        paper.rule(EDGE, ODDS + 26, y - LINE / 2 - 2)
        paper.text(NAME, y, paper.fitted(label, WORD - NAME - 10, weight="bold"), weight="bold")
        for word in (*own, rest):
            if word is not None:
                _row(paper, y, word, longest, word is rest)
                if (z := odds.get(label, {}).get(word.word)) is not None:
                    paper.text(ODDS, y, f"{z:.1f}", ha="center")
                y += LINE
        y += 5
    return y


def _row(paper: _Paper, y: float, word: WordEnergy, longest: float, special: bool) -> None:
    how = {"color": FAINT, "style": "italic"} if special else {}
    paper.text(WORD, y, paper.fitted(word.word, BAR - WORD - 8), **how)
    for share, color, shift in ((word.early, EARLY, -2.6), (word.late, LATE, 2.6)):
        paper.box(BAR, y + shift, (share or 0.0) / longest * (BAR_END - BAR - 62), 4.6, color)
    end = BAR + max(word.early or 0.0, word.late or 0.0) / longest * (BAR_END - BAR - 62)
    paper.text(end + 5, y, f"{percent(word.early)} → {percent(word.late)} %", 7.5, color=FAINT)


def percent(share: float | None) -> str:
    """A share of 1 in per cent, or a dash for what is not known."""
    return "-" if share is None else f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}"


def _shaded(paper: _Paper, sentences: Sequence[Sentence]) -> float:
    """The sentences; gives the bottom."""
    if not sentences:
        return 0.0
    paper.text(RIGHT, 26, "What the words of single sentences hold in the trained model", 13, weight="bold")
    paper.text(RIGHT, 48, "the darker, the more of the sentence's gradient; white: not active in any layer", color=FAINT)
    size, room, y = 9.0, WIDTH - EDGE, TOP
    for sentence in sentences:
        tagged = not sentence.label
        paper.rule(RIGHT, room, y - LINE / 2 - 2)
        if not tagged:
            paper.text(RIGHT, y, sentence.label, 7.5, color=FAINT)
            y += LINE + 1
        x, most = RIGHT, max(sentence.held) or 1.0
        for word, label, held in zip(sentence.words, sentence.labels, sentence.held, strict=True):
            word = paper.fitted(word, room - RIGHT - 6, size)
            width = paper.width(word, size) + 6
            tag = label if tagged and label != "O" else ""
            width = max(width, paper.width(tag, 6.5) + 6)
            if x + width > room:
                x, y = RIGHT, y + LINE + 3 + 9 * tagged
            shade = held / most
            paper.box(x, y, width, 14, tuple(1 - shade * (1 - part) for part in (0.17, 0.42, 0.69)))
            paper.text(x + 3, y, word, size, color="white" if shade > 0.55 else INK)
            if tag:
                paper.text(x + 3, y + 11.5, tag, 6.5, color=FAINT)
            x += width + 1.5
        y += LINE + 10 + 9 * tagged
    return y - 10
