"""Stored content of a page, whose labels and texts are hostile, and what is read of the page again."""

from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np

from clm_kernels.finetune.judging.items import Items
from clm_kernels.finetune.page.content import Content, judgement
from clm_kernels.finetune.report import Report
from clm_kernels.finetune.split import Split
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.finetune.words.table import ActiveWords, WordEnergy

HOSTILE = (
    "<script>alert(1)</script>", "</style><img src=http://evil.test/x onerror=alert(1)>", '" onload="alert(2)', "'><a href=//evil.test>",
    "\u202eevil\u202c", "\x1b[31mred\x07", "$title ${body} %s", "&lt;b&gt;", "line\nbreak", "\ud800", "x" * 5000, "سلام دنیا", "<!-- ", "]]>",
)  # fmt: skip


def items(labels=150, each=4, texts=("my card is gone",)):
    """Of each label `each` texts, some of which are taken for the next ones, with any probability."""
    draw = np.random.default_rng(0)
    gold = np.repeat(np.arange(labels), each)
    predicted = np.where(draw.random(len(gold)) < 0.6, gold, (gold + draw.integers(1, 4, len(gold))) % labels)
    names = [
        f"{HOSTILE[i % len(HOSTILE)]} {i}" if i < 2 * len(HOSTILE) else f"a_rather_long_name_of_an_intent_{i}"
        for i in range(labels)
    ]
    split = Split(
        "test.jsonl", [texts[i % len(texts)] for i in range(len(gold))], gold, [f"line {i + 1}" for i in range(len(gold))]
    )
    shares = draw.random((2, len(gold)))
    return Items(names, split, gold, predicted, shares.max(0), shares.min(0), np.arange(len(gold)), False)


def report(names, epochs=3, evil=HOSTILE[1]):
    """Of a run that left tokens and examples out."""
    line = {"epoch": 1.0, "step": 9, "train_loss": 1.0, "loss": 1.2, "accuracy": 0.6, "macro_f1": 0.5}
    part = {"path": f"/home/me/{evil}.jsonl", "rows": 600, "sha256": "0" * 64}
    return Report(
        config={"model": f"/home/me/{evil}", "method": "sparse", "cost": 0.4, "train": part["path"], "template": evil, "energy": "0.9"},
        data={"task": "sequence", "train": part, "test": part}, labels=list(names), trained=1000, parameters=20000,
        selection=[{"part": evil, "selected_entries": 5, "entries": 50}], best_by="accuracy", history=[line] * epochs, best=line,
        test={"accuracy": 0.6, "loss": 1.0}, seconds={"selecting": 3.0, "training": 70.0, "epochs": [20.0] * epochs},
        sizes={"delta": 4000, "checkpoint": 80000}, made_on={"device": "cpu", "platform": evil}, spent=[0.5] * epochs, planned=[0.4] * epochs,
        cost={"share": 0.3, "forward": 1e9, "input_gradients": 5e8, "weight_gradients": 1e8, "full": 2e9, "batch": 8, "length": 20},
        active=[{"epoch": 1.0 + i, "tokens": 0.2, "flops": 0.1, "layers": {"bert.encoder.layer.0.output.dense": 0.2}} for i in range(epochs)],
        examples=[{"examples": 0.9, "tokens": 0.8}] * epochs, scope={"threshold": 0.5, "rows": 50, "kept": 0.95},
        calibration={"temperature": 0.7, "rows": 50, "bins": 15, "error_before": 0.2, "error_after": 0.1},
    )  # fmt: skip


def content(labels=150, epochs=3, name="intents"):
    """All that a page can hold."""
    found = items(labels, texts=HOSTILE)
    words = {label: [WordEnergy(word, 0.2, 0.1, 3) for word in HOSTILE] for label in found.label_names}
    judged = judgement(found, "test", TASKS["sequence"])
    held = ActiveWords(words, "0.9", {"early": 3, "late": 3}, [])
    return Content(name, judged, report(found.label_names, epochs), held, notes=list(HOSTILE))


class Read(HTMLParser):
    """Every element with its attributes, the text by element, and whether what was opened was closed."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.open, self.sections = [], "", [], {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "wbr"):
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside = [tag for tag, _ in self.open]
        if "style" in inside:
            return
        self.text += data
        for tag, key in self.open:
            if tag == "section":
                self.sections[key] = self.sections.get(key, "") + data


def scored(found, part="test", scope=None):
    """As `score_best` gives it."""
    return SimpleNamespace(items=found, part=part, scope=scope)
