"""The mistakes of which the classifier was surest."""

from __future__ import annotations

from ..content import Content, Mistake
from ..markup import NOTHING, Html, joined, named, paragraph, tag
from ..numbers import percent

LETTERS, AROUND = 400, 120  # of a text; of what stands around a word, on each side


def told(content: Content) -> Html:
    judged = content.judged
    if judged is None:
        return NOTHING
    if not judged.wrong:
        return paragraph(f"There is none among {judged.items:,} {judged.unit}.")
    left = judged.wrong - len(judged.mistakes)
    more = f" {left:,} more are in errors.csv, which clm-kernels evaluate writes." if left else ""
    found = f"{judged.wrong:,} of {judged.items:,} {judged.unit} are wrong; the surest come first, and some of them may be labelled wrong.{more}"
    return joined(
        [
            paragraph(found),
            tag("ol", *(_mistake(one) for one in judged.mistakes), class_="mistakes" + " tall" * (len(judged.mistakes) > 12)),
        ]
    )


def _mistake(one: Mistake) -> Html:
    text = tag("p", _text(one), class_="text")
    return tag("li", text, tag("p", *_labels(one), tag("span", f" · {one.place}".replace(" ", "\u00a0"), class_="of")))


def _text(one: Mistake) -> Html:
    if not (one.before or one.after):
        return named(one.text, LETTERS)
    before = f"…{one.before[-AROUND:]}" if len(one.before) > AROUND else one.before
    return joined([named(before, AROUND + 1), " ", tag("mark", named(one.text)), " ", named(one.after, AROUND)])


def _labels(one: Mistake) -> list[Html | str]:
    if one.probability is None:
        return [tag("b", named(one.label)), " was cut off"]
    share = percent(one.probability)
    if not one.label:
        return [tag("b", named(one.predicted)), f" is given in excess, with {share}"]
    if not one.predicted:
        return [tag("b", named(one.label)), f" is lacking, which had {share}"]
    return [
        tag("b", named(one.label)),
        f" ({percent(one.of_label or 0.0)}) taken for ",
        tag("b", named(one.predicted)),
        f" ({share})",
    ]
