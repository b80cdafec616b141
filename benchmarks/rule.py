"""``python -m benchmarks.rule``: writes `clm_kernels/ops/rule.py`, the rule for `auto`, from ``results/*/sweep.json``.

The same JSON gives the same file. Within one size the implementation of the density below stays until another one is
`MARGIN` faster, so that noise flips nothing; at the lowest density the one that `auto` took before is the incumbent.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from clm_kernels.measure import bench
from clm_kernels.ops.registry import AUTO

from .common import RESULTS, ROOT
from .sweep import PLAIN

TARGET = ROOT / "clm_kernels" / "ops" / "rule.py"
MARGIN = 0.1
Band = tuple[float, float, str]  # work up to, density up to, implementation

HEADER = '''"""Which `weight_grad` was fastest, measured. Written by ``python -m benchmarks.rule``; to be changed by measuring again.

Work is tokens x rows x columns of the weight, density the selected part of it. The first band that a call's work and
density do not exceed names the implementation. A device, kind or dtype (of dy and x) that is not here is not measured:
there the registry's `AUTO` says what runs. The plain way is not among them, as it builds the dense gradient: ``matmul`` is
the same library's product of the selected parts, for elements strip by strip of the dense one.
"""

from math import inf
'''


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted(RESULTS.glob("*/sweep.json"))
    TARGET.write_text(text(paths))
    print(f"written: {TARGET}, from {', '.join(map(str, paths)) or 'nothing'}")


def text(paths: Sequence[Path]) -> str:
    """The module, from one sweep of each type of device.

    Raises:
        ValueError: if two of them are of one type.
    """
    stored = {}
    for path in paths:
        found = json.loads(path.read_text())
        device = found["machine"]["device"]
        if device in stored:
            raise ValueError(f"rule: one sweep of each type of device must be given, got two of {device}: name the files")
        stored[device] = found
    lines = [HEADER, "SOURCES = {"]
    for device, found in sorted(stored.items()):
        machine = found["machine"]
        threads = f", {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}" if device == "cpu" else ""
        source = f"{machine['name']}{threads}, torch {machine['versions']['torch']}, commit {machine['commit']}"
        lines.append(f'    "{device}": "{source}",')
    lines.append("}\n\nTABLE = {")
    for device, found in sorted(stored.items()):
        lines.append(f'    "{device}": {{')
        for kind in bench.KINDS:
            for dtype in bench.DTYPES:
                rows = [row for row in found["rows"] if (row["kind"], row["dtype"]) == (kind, dtype)]
                if rows:
                    lines += _lines(f'("{kind}", "{dtype}")', bands(rows, AUTO[device]["weight_grad"]))
        lines.append("    },")
    return "\n".join(lines) + "\n}\n"


def _lines(key: str, bands: list[Band]) -> list[str]:
    """As ruff formats them."""
    written = [f'({work:.2g}, {density:.2g}, "{name}"),'.replace("e+", "e") for work, density, name in bands]
    if len(written) == 1:
        return [f"        {key}: ({written[0]}),"]
    return [f"        {key}: (", *(f"            {band}" for band in written), "        ),"]


def bands(rows: Iterable[dict], auto: Sequence[str]) -> list[Band]:
    """The bands of one kind and dtype; between two measured sizes or densities the border is their geometric mean."""
    by_work: dict[int, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row["work"], row["density"])):
        by_work.setdefault(row["work"], []).append(row)
    works, found = list(by_work), []
    for work, border in zip(works, _borders(works), strict=True):
        winners, incumbent = [], next((name for name in auto if name in by_work[work][0]["microseconds"]), None)
        for row in by_work[work]:
            incumbent = winner(row["microseconds"], incumbent)
            winners.append(incumbent)
        densities = _borders([row["density"] for row in by_work[work]])
        within = [
            (density, name)
            for i, (density, name) in enumerate(zip(densities, winners, strict=True))
            if i + 1 == len(winners) or winners[i + 1] != name
        ]
        if found and found[-1][1] == within:
            found.pop()
        found.append((border, within))
    return [(border, density, name) for border, within in found for density, name in within]


def winner(microseconds: dict[str, float], incumbent: str | None) -> str:
    """The fastest implementation, if it beats the incumbent by `MARGIN`."""
    known = {name: time for name, time in microseconds.items() if name != PLAIN}
    fastest = min(known, key=known.get)
    return incumbent if incumbent in known and known[fastest] > (1 - MARGIN) * known[incumbent] else fastest


def _borders(values: list[float]) -> list[float]:
    """Up to where each value stands, rounded to two digits; the last one without end."""
    return [float(f"{math.sqrt(a * b):.2g}") for a, b in itertools.pairwise(values)] + [math.inf]


if __name__ == "__main__":
    main()
