"""The stored result as the table of docs/models.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common import ROOT

RESULT = Path(__file__).parent.parent / "results" / "architectures" / "types.json"
PAGE = ROOT / "docs" / "models.md"
HEAD = "| type | texts | tags | pooling | replay | why not |\n|---|---|---|---|---|---|"
COLUMNS = ("sequence", "token", "pooling", "replay")


def table(stored: dict[str, Any]) -> str:
    """A line for each type; an empty cell is a head that transformers has not."""
    rows = [HEAD]
    for kind, found in stored["types"].items():
        cells = [{"yes": "yes", "-": ""}.get(found[column], "no") for column in COLUMNS]
        reasons = dict.fromkeys(short(found[column]) for column in COLUMNS if found[column] not in ("yes", "-"))
        rows.append(f"| {kind} | {' | '.join(cells)} | {'; '.join(reasons)} |")
    return "\n".join(rows)


def short(reason: str) -> str:
    """Without the name of the function that said it, and what it got."""
    named = reason.startswith(("choose: ", "replay: ", "layers_of: ", "pooling: "))
    return (reason.partition(": ")[2] if named else reason).partition(", got ")[0]


def write_table(stored: dict[str, Any]) -> None:
    """Puts the table into its page, in place of the former one."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(HEAD)
    after = rest.partition("\n\n")[2]
    PAGE.write_text(f"{before}{table(stored)}\n\n{after}", encoding="utf-8")
