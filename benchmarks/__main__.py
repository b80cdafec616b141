"""``python -m benchmarks [NAME ...]``: measures, prints the table, keeps JSON in ``benchmarks/results/cpu``."""

from __future__ import annotations

import importlib
import sys

from rich.console import Console
from rich.table import Table

QUICK = ("step", "kernels", "memory", "sensitivity")
NAMES = (*QUICK, "checks", "groups", "accuracy", "dealt", "active", "packing", "head")


def main() -> None:
    names = sys.argv[1:] or QUICK
    if unknown := sorted(set(names) - set(NAMES)):
        raise SystemExit(f"benchmarks: names must be among {', '.join(NAMES)}, got {unknown[0]}")
    table = Table("what", "measured", "reach", "met")
    for name in names:
        for line in importlib.import_module(f"benchmarks.{name}").main():
            table.add_row(line["what"], f"{line['measured']:g}", line["reach"], "yes" if line["met"] else "NO")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
