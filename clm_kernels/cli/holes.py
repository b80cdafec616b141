"""Known holes in what is installed that a file from a stranger could use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Hole(NamedTuple):
    """A known vulnerability.

    Attributes:
        package: in which it is.
        mended: the first version without it.
        number: of the CVE.
        what: a file may do through it.
    """

    package: str
    mended: str
    number: str
    what: str


HOLES = (
    Hole("torch", "2.6.0", "CVE-2025-32434", "torch.load runs code of a file in spite of weights_only=True"),
    Hole("torch", "2.10.0", "CVE-2026-24747", "torch.load with weights_only=True corrupts memory, and may run code of a file"),
    Hole("transformers", "4.36.0", "CVE-2023-6730", "pickled files in a model's folder run code"),
    Hole(
        "transformers",
        "5.0.0",
        "CVE-2026-1839",
        "resuming from a checkpoint runs code of its rng_state.pth where torch is below 2.6",
    ),
    Hole("transformers", "5.3.0", "CVE-2026-4372", "a config.json fetches and runs code in spite of trust_remote_code=False"),
    Hole("transformers", "5.5.0", "CVE-2026-5241", "a config.json of LightGlue turns trust_remote_code on for itself"),
)


def holes(versions: Mapping[str, str]) -> Iterator[Hole]:
    """The holes in these versions, by package; a version that cannot be read has them all.

    A development version or release candidate counts as older than what it leads to.
    """
    for hole in HOLES:
        if hole.package in versions and _number(versions[hole.package]) < _number(hole.mended):
            yield hole


def _number(version: str) -> tuple[tuple[int, ...], bool]:
    found = re.match(r"(\d+(?:\.\d+)*)(?:\.post\d+)?(.*)", version.partition("+")[0])
    numbers = [int(part) for part in found[1].split(".")] if found else []
    while numbers and not numbers[-1]:  # 2.6 is 2.6.0
        numbers.pop()
    return tuple(numbers), bool(found) and not found[2]
