"""The words that hold most of each label's gradient."""

from __future__ import annotations

from ...words.picture import percent
from ...words.table import ActiveWords, WordEnergy
from ..content import Content
from ..markup import NOTHING, Html, joined, named, paragraph, tag

LABELS, WORDS = 150, 6  # at most


def told(content: Content) -> Html:
    words = content.words
    if words is None or not words.by_label:
        return NOTHING
    held = {label: words.words(label, WORDS) for label in words.by_label}
    ranked = sorted(held, key=lambda label: -max((word.share for word in held[label]), default=0.0))
    kept = set(ranked[:LABELS])
    left = len(held) - len(kept)
    said = (
        "Each word's part of what the active tokens of its label's texts hold of the gradient, in the last epoch"
        f"{', after that of the first in brackets' if words.batches.get('early') else ''}; special tokens are left out."
    )
    blocks = [_label(words, label, held[label]) for label in held if label in kept]
    more = tag("p", f"{left:,} more labels are in active_tokens.json.", class_="fine") if left else NOTHING
    return joined([paragraph(said), tag("dl", *blocks, class_="words" + " tall" * (len(blocks) > 24)), more])


def _label(words: ActiveWords, label: str, found: list[WordEnergy]) -> Html:
    most = max((word.share for word in found), default=0.0) or 1.0
    told = [_word(word, word.share / most) for word in found]
    return tag("div", tag("dt", named(label)), tag("dd", *(told or ["-"])))


def _word(word: WordEnergy, share: float) -> Html:
    early = "" if word.early is None or word.late is None else f" ({percent(word.early)})"
    told = tag("small", f"{percent(word.early if word.late is None else word.late)} %{early}")
    return tag("span", named(word.word, 40), " ", told, class_="word", style=f"--share:{share:.2f}")
