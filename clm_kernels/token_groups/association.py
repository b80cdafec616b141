"""How strongly a run of pieces and a class go together. Every measure takes and gives arrays ``(runs, classes)``.

`counts` holds how many of a class's texts (or words) have the run, `sizes`, ``(classes,)``, how many it has. A positive
result says that the run is more frequent in the class than elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PRIOR = 10.0  # texts of the corpus's average that every class is taken to have had besides


def log_odds(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """z-scores of weighted log-odds with an informative Dirichlet prior.

    After Monroe, Colaresi & Quinn, "Fightin' Words", Political Analysis 16 (2008), equations 19 to 22, for presence in a
    text. The class is held against the whole corpus and not against the rest of it, as a run that stands nowhere else, the
    best there is, would leave the rest without a variance.
    """
    total, everything = counts.sum(1, keepdims=True), sizes.sum()
    rate = total / everything
    having, lacking = counts + PRIOR * rate, sizes - counts + PRIOR * (1 - rate)
    others = np.maximum(everything - total, 0.5)
    odds = np.log(having) - np.log(np.maximum(lacking, 0.5)) - np.log(total) + np.log(others)
    z = odds / np.sqrt(1 / having + 1 / np.maximum(lacking, 0.5) + 1 / total + 1 / others)
    return np.where(total < everything, z, 0.0)  # what every text has says nothing


def chi_squared(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Pearson's statistic of the table run x class, with the sign of the association."""
    total, everything = counts.sum(1, keepdims=True), sizes.sum()
    excess = counts * everything - total * sizes
    margins = total * (everything - total) * sizes * (everything - sizes)
    return np.sign(excess) * everything * excess.astype(np.float64) ** 2 / np.maximum(margins, 1)


def mutual_information(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Bits that presence of the run and membership of the class share, with the sign of the association."""
    total, everything = counts.sum(1, keepdims=True), sizes.sum()
    bits = np.zeros(counts.shape)
    for joint, with_run in ((counts, total), (sizes - counts, everything - total)):
        bits += _bits(joint, with_run, sizes, everything) + _bits(with_run - joint, with_run, everything - sizes, everything)
    return np.sign(counts * everything - total * sizes) * np.maximum(bits, 0)


def _bits(joint: np.ndarray, row: np.ndarray, column: np.ndarray, everything: float) -> np.ndarray:
    expected = row * column / everything
    ratio = np.divide(joint, expected, out=np.ones(joint.shape), where=(joint > 0) & (expected > 0))
    return joint / everything * np.log2(ratio)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "log-odds": log_odds,
    "chi-squared": chi_squared,
    "mutual-information": mutual_information,
}
