"""``python -m benchmarks.plot [FOLDER or FILE ...]``: pictures of stored results, beside the JSON; nothing is measured.

Of microbenchmarks (``clm-kernels bench --output``, or the suite's ``--benchmark-json``) a roofline, of a density sweep its
curves, with the density up to which each implementation is faster than dense product + gather, which is printed too.
By default every folder of ``benchmarks/results``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table

from .common import RESULTS
from .sweep import PLAIN

KIND_COLORS = {"rows": "#2a7f62", "columns": "#c9822b", "blocks": "#5b6fb5", "elements": "#b5485d"}
COLORS = {"cpu": "#2a7f62", "triton": "#2a7f62", "cuda": "#5b6fb5", "matmul": "#c9822b", "reference": "#9aa5b1", PLAIN: "#222222"}
MARKERS = "osD^vP*X"  # one an op
INK = "#444444"


def main() -> None:
    places = [Path(name) for name in sys.argv[1:]] or sorted(path for path in RESULTS.iterdir() if path.is_dir())
    drawn = [picture for place in places for path in _files(place) for picture in draw(path)]
    for picture in drawn:
        print(f"drawn: {picture}")
    if not drawn:
        raise SystemExit(f"plot: no microbenchmarks and no sweep in {', '.join(map(str, places))}")


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("*.json")) if place.is_dir() else [place]


def draw(path: Path) -> list[Path]:
    """The pictures of one JSON file, which stand beside it; none if it holds neither microbenchmarks nor a sweep."""
    stored = json.loads(path.read_text())
    if rows := micro_rows(stored):
        return [roofline(stored["machine"], rows, path.with_suffix(".png"))]
    rows = stored.get("rows", [])
    if not rows or PLAIN not in rows[0].get("microseconds", ()):
        return []
    _print_crossovers(rows)
    dtypes = dict.fromkeys(row["dtype"] for row in rows)
    return [
        density_sweep(
            stored["machine"], [row for row in rows if row["dtype"] == dtype], path.with_name(f"{path.stem}-{dtype}.png")
        )
        for dtype in dtypes
    ]


def micro_rows(stored: dict) -> list[dict]:
    """What `clm_kernels.bench.measure` said of every case, as either program stores it."""
    rows = [case["extra_info"] for case in stored.get("benchmarks", ())] or stored.get("rows", [])
    return [row for row in rows if "% of copy" in row]


def crossover(density: Sequence[float], ours: Sequence[float], plain: Sequence[float]) -> float:
    """The density up to which `ours` takes less time than `plain`: 0 if at none, inf if at all of them.

    Between two measured densities both times are taken to be straight lines in logarithms.
    """
    margin = [math.log(b / a) for a, b in zip(ours, plain, strict=True)]
    end = next((i for i, faster in enumerate(margin) if faster <= 0), None)
    if end is None:
        return math.inf
    if end == 0:
        return 0.0
    share = margin[end - 1] / (margin[end - 1] - margin[end])
    return math.exp((1 - share) * math.log(density[end - 1]) + share * math.log(density[end]))


def crossovers(cells: Iterable[dict]) -> dict[str, float]:
    """Implementation -> its crossover, of the cells of one kind, dtype and size."""
    cells = sorted(cells, key=lambda cell: cell["density"])
    found = {}
    for name in dict.fromkeys(name for cell in cells for name in cell["microseconds"] if name != PLAIN):
        measured = [(cell["density"], cell["microseconds"]) for cell in cells if name in cell["microseconds"]]
        density, times = zip(*measured, strict=True)
        found[name] = crossover(density, [time[name] for time in times], [time[PLAIN] for time in times])
    return found


def _said(density: float) -> str:
    if density in (0, math.inf):
        return "everywhere" if density else "nowhere"
    return f"up to {100 * density:.{0 if density >= 0.1 else 2 if density < 0.01 else 1}f} %"


def _panels(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _print_crossovers(rows: list[dict]) -> None:
    table = Table("dtype", "weight", "tokens", "kind", "implementation", "faster", title=f"faster than {PLAIN}")
    for (dtype, shape, tokens, kind), cells in _panels(rows, "dtype", "shape", "tokens", "kind").items():
        for name, density in crossovers(cells).items():
            table.add_row(dtype, shape, str(tokens), kind, name, _said(density))
    Console(width=110).print(table)


def density_sweep(machine: dict, rows: list[dict], path: Path) -> Path:
    """Time over density: a column for each kind, a row for each size."""
    sizes, kinds = _panels(rows, "shape", "tokens"), list(_panels(rows, "kind"))
    names = list(dict.fromkeys(name for row in rows for name in row["microseconds"]))
    figure, grid = plt.subplots(
        len(sizes), len(kinds), figsize=(3.5 * len(kinds), 3.1 * len(sizes) + 1), sharex=True, sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, ((shape, tokens), of_size) in zip(grid, sizes.items(), strict=True):
        panels = _panels(of_size, "kind")
        for axes, (kind,) in zip(line, kinds, strict=True):
            _sweep_panel(axes, panels.get((kind,), []))
            axes.set_title(f"{kind}", loc="left", color=INK, fontsize=11)
        times = [time / 1e3 for row in of_size for time in row["microseconds"].values()]
        share = 0.085 * len(names) + 0.03  # of the height, for the words below the curves
        line[0].set_ylim(min(times) * (min(times) / max(times)) ** (share / (1 - share)), 1.3 * max(times))
        rows_, columns = of_size[0]["size"]
        line[0].set_ylabel(f"{shape}, {rows_} x {columns}\n{tokens} tokens\nmilliseconds", color=INK)
    figure.get_layout_engine().set(wspace=0.05)  # between the last number of one axis and the first of the next
    for axes in grid[-1]:
        axes.set_xlabel("density", color=INK)
    handles = [Line2D([], [], color=COLORS[name], ls="--" if name == PLAIN else "-", lw=2, label=name) for name in names]
    handles.append(Line2D([], [], color=INK, marker="o", mfc="white", ls="", label=f"no longer faster than {PLAIN}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    _headline(figure, machine, f"weight_grad over density, {rows[0]['dtype']}")
    return _saved(figure, path)


def _sweep_panel(axes: Axes, cells: list[dict]) -> None:
    cells = sorted(cells, key=lambda cell: cell["density"])
    for name in dict.fromkeys(name for cell in cells for name in cell["microseconds"]):
        measured = [(cell["density"], cell["microseconds"][name] / 1e3) for cell in cells if name in cell["microseconds"]]
        plain = name == PLAIN
        axes.plot(
            *zip(*measured, strict=True), color=COLORS[name], ls="--" if plain else "-", marker="" if plain else ".", lw=1.6
        )
    found = crossovers(cells)
    for name, density in found.items():
        if 0 < density < math.inf:
            at = [cell["density"] for cell in cells]
            axes.plot(density, _between(density, at, [c["microseconds"][PLAIN] / 1e3 for c in cells]), "o",
                      color=COLORS[name], mfc="white", ms=7, mew=1.6, zorder=5)  # fmt: skip
    for i, (name, density) in enumerate(reversed(found.items())):
        axes.text(0.97, 0.04 + 0.085 * i, f"{name} {_said(density)}", transform=axes.transAxes, ha="right", fontsize=8.5,
                  color=COLORS[name], bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8})  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda density, _: f"{100 * density:g} %")
    _plain_frame(axes)


def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Straight in logarithms."""
    i = max(i for i, left in enumerate(xs[:-1]) if left <= x)
    share = math.log(x / xs[i]) / math.log(xs[i + 1] / xs[i])
    return math.exp((1 - share) * math.log(ys[i]) + share * math.log(ys[i + 1]))


def roofline(machine: dict, rows: list[dict], path: Path) -> Path:
    """FLOP/s over FLOP per byte under the machine's measured roofs; what only moves data beside it, by share of a copy."""
    dtypes = [dtype for (dtype,) in _panels(rows, "dtype")]
    computing, moving = [row for row in rows if row["flop"]], [row for row in rows if not row["flop"]]
    names = list(dict.fromkeys((row["op"], row["kind"]) for row in moving))
    figure, grid = plt.subplots(
        2 if moving else 1, len(dtypes), figsize=(6.4 * len(dtypes), 4.6 + (0.9 + 0.24 * len(names) if moving else 0)),
        height_ratios=[4.6, 0.9 + 0.24 * len(names)] if moving else None, squeeze=False, layout="constrained",
    )  # fmt: skip
    marker = dict(zip(dict.fromkeys(row["op"] for row in computing), MARKERS, strict=False))
    for axes, dtype in zip(grid[0], dtypes, strict=True):
        _roof(axes, machine, dtype, [row for row in computing if row["dtype"] == dtype], marker)
    for axes, dtype in zip(grid[1] if moving else (), dtypes, strict=False):
        _shares(axes, [row for row in moving if row["dtype"] == dtype], names)
    handles = [Line2D([], [], color=INK, marker=shape, ls="", label=op) for op, shape in marker.items()]
    handles += [Line2D([], [], color=color, marker="s", ls="", label=kind) for kind, color in KIND_COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 * len(dtypes), frameon=False)
    shapes = ", ".join(dict.fromkeys(row["shape"] for row in rows))
    _headline(figure, machine, f"ops under the machine's measured roofs: {shapes}")
    return _saved(figure, path)


def _roof(axes: Axes, machine: dict, dtype: str, rows: list[dict], marker: dict[str, str]) -> None:
    copy, product = machine["copy"], machine["product"][dtype]
    points = [(row["flop"] / row["bytes"], 1e6 * row["flop"] / row["microseconds"], row) for row in rows]
    ridge = product / copy
    intensities = [x for x, _, _ in points]
    left, right = min([ridge / 10, *intensities]) / 2, max([ridge * 10, *intensities]) * 2
    axes.plot([left, ridge, right], [left * copy, product, product], color=INK, lw=1.8)
    axes.text(right / 1.1, product * 1.15, _rate(product, "FLOP/s product"), color=INK, ha="right", fontsize=9)
    axes.text(ridge / 1.2, product * 1.15, _rate(copy, "B/s copy"), color=INK, ha="right", fontsize=9)
    for x, y, row in points:
        axes.plot(x, y, marker[row["op"]], color=KIND_COLORS[row["kind"]], ms=7, mec="white", mew=0.8, alpha=0.85)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(min([left * copy, *(y for _, y, _ in points)]) / 2, product * 3)
    axes.set_xlabel("FLOP per byte that must move", color=INK)
    axes.set_ylabel("FLOP/s", color=INK)
    axes.set_title(dtype, loc="left", color=INK, fontsize=11)
    _plain_frame(axes)


def _rate(number: float, unit: str) -> str:
    return f"{number / 1e12:.3g} T{unit}" if number >= 1e12 else f"{number / 1e9:.3g} G{unit}"


def _shares(axes: Axes, rows: list[dict], names: list[tuple[str, str]]) -> None:
    """% of the copy rate, a dot for each shape."""
    for row in rows:
        axes.plot(row["% of copy"], names.index((row["op"], row["kind"])), "o", color=KIND_COLORS[row["kind"]], mec="white", ms=7)
    axes.set_yticks(range(len(names)), [" ".join(name) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max([100, *(row["% of copy"] for row in rows)]) * 1.05)
    axes.axvline(100, color=INK, lw=1)
    axes.set_xlabel("% of the copy rate, of what only moves data; a dot for each shape", color=INK)
    _plain_frame(axes)


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ec", lw=0.7)
    axes.set_axisbelow(True)


def _headline(figure, machine: dict, title: str) -> None:
    threads = f", {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}" if machine["device"] == "cpu" else ""
    source = f"{machine['name']}{threads}, torch {machine['versions']['torch']}, commit {machine['commit']}"
    figure.suptitle(f"{title}\n{source}", x=0.01, ha="left", fontsize=12)


def _saved(figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    main()
