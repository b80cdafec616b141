"""What `benchmarks.scope` measures, and that the tables in the docs are the stored ones."""

import needs_datasets  # noqa: F401
import numpy as np
import pytest
from places import ROOT
from sklearn.metrics import roc_auc_score

from benchmarks import scope

STORED = ROOT / "benchmarks" / "results" / "scope"
DRAWN = np.random.default_rng(0).integers(0, 20, (2, 300)) + np.array([[4], [0]])


def test_auroc_is_scikit_learns_with_ties():
    inside, outside = DRAWN
    expected = roc_auc_score([1] * 300 + [0] * 300, [*inside, *outside])
    assert scope.auroc(inside, outside) == pytest.approx(expected) and 0.5 < expected < 1


def test_false_accepts_at_95_percent():
    inside = np.arange(100.0)  # all but 0 to 3 are at or above the threshold, 4
    assert scope.accepted(inside, np.array([3.9, 4, 5, 2])) == 0.5


def test_scores_tell_a_text_far_from_all_labels():
    draw = np.random.default_rng(1)
    gold = np.repeat(np.arange(3), 30)
    features = np.eye(8)[gold] + draw.normal(0, 0.05, (90, 8))
    logits = 9 * features[:, :3]
    for name, score in scope.scorers(features, gold).items():
        far = score(np.eye(8)[[5]], np.zeros((1, 3)))
        assert far[0] < score(features, logits).min(), name


def test_the_difference_to_the_softmax_has_an_interval():
    cell = {"scores": {"in": {"softmax": list(range(50)), "other": list(range(50))},
                       "out": {"softmax": list(range(50)), "other": list(range(-25, 25))}}}  # fmt: skip
    value, low, high = scope.compared([cell, cell], "other", ("in", "out"), draws=50)["auroc"]
    assert value == pytest.approx(0.875, abs=0.01) and 0.1 < low < value - 0.5 < high < 0.7
    assert scope.compared([cell], "softmax", ("in", "out"), draws=5)["auroc"][1:] == (0, 0)


def test_the_tables_in_the_docs_are_the_stored_ones():
    docs = (ROOT / "docs" / "judging.md").read_text(encoding="utf-8")
    tables = [block for block in (STORED / "table.md").read_text(encoding="utf-8").strip().split("\n\n") if block.startswith("|")]
    assert len(tables) == 4 and all(table in docs for table in tables)


def test_the_stored_table_is_of_the_stored_scores():
    cells = scope.read(STORED / scope.LINES)
    assert {scope.key_of(cell) for cell in cells} == {(*run, seed) for run in scope.RUNS for seed in scope.SEEDS}
    own = [cell for cell in cells if cell["task"] == "clinc150"]
    found = scope.compared(own, "cosine to class means", ("test", "oos_test"), draws=1)
    row = f"| cosine to class means | {found['auroc'][0]:.3f} |"
    assert row in (STORED / "table.md").read_text(encoding="utf-8").split("clinc150, test")[1]
