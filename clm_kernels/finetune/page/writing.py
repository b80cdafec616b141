"""Writes the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from ..._version import __version__
from ...files import write_atomically
from ..judging.items import Items
from ..judging.several import Marks
from ..report import Report
from ..tasks import TASKS
from ..words.table import ActiveWords
from .content import Content, Drawn, judgement
from .markup import Html, joined, plain, tag
from .sections import calibration, classes, confusion, cost, head, made, mistakes, scores, shares, words

if TYPE_CHECKING:
    from ..judging.evaluation import Evaluation
    from ..scoring import Scored

TEMPLATE = Path(__file__).with_name("page.html")
SECTIONS: Sequence[tuple[str, str, Callable[[Content], Html]]] = (  # key, title and what there is to tell, if there is anything
    ("scores", "Scores", scores.told),
    ("classes", "Classes", classes.told),
    ("confusion", "Taken for another", confusion.told),
    ("calibration", "Probabilities", calibration.told),
    ("cost", "What it cost", cost.told),
    ("shares", "What took part", shares.told),
    ("words", "Words that carry each label", words.told),
    ("mistakes", "The surest mistakes", mistakes.told),
    ("made", "How it was made", made.told),
)


def write_page(path: Path, report: Report, scored: Scored, words: ActiveWords | None, say: Callable[[str], None]) -> None:
    """Leaves the page of a run whose result is whole already.

    Whatever goes wrong is said, and costs the run no more than the page.
    """
    with _said(path, say):
        task = TASKS[report.data["task"]]
        judged = judgement(scored.items, scored.part, task) if scored.items else None
        write_atomically(path, page(Content(path.parent.name, judged, report, words)).encode())


def write_judged(path: Path, found: Items | Marks, told: Evaluation, say: Callable[[str], None]) -> None:
    """The same of an evaluation, with what there is of it."""
    with _said(path, say):
        model, data = (name.replace("\\", "/").rstrip("/").rpartition("/")[2] for name in (told.model, told.data))
        judged = judgement(found, data, TASKS[told.task], Drawn(told.scores, told.draws))
        about = {"model": model, "data": data}
        write_atomically(path, page(Content(model, judged, about=about, notes=told.notes, compared=told.compared)).encode())


@contextmanager
def _said(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        say(f"{path.name} left out: {type(error).__name__}: {error}")


def page(content: Content) -> str:
    """The page as HTML."""
    told = [(key, title, made) for key, title, tell in SECTIONS if (made := tell(content))]
    links = tag("nav", *(tag("a", title, href=f"#{key}") for key, title, _ in told), aria_label="Sections")
    blocks = (tag("section", tag("h2", title), made, id=key) for key, title, made in told)
    body = joined([head.told(content), links, tag("main", *blocks)])
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=plain(content.name), body=body, version=__version__)
