"""What `benchmarks.mixing` makes of its runs."""

import needs_datasets  # noqa: F401

from benchmarks.mixing import best_rate, read, table


def cells(task, mixed, scores, rates=(1e-3, 1e-2)):
    """Of seeds 1 to 3 at the better rate, and of seed 1 at the other one."""
    worse = {"task": task, "mixed": mixed, "seed": 1, "learning_rate": rates[0], "validation": 0.1, "test": 0.99}
    return [worse] + [
        worse | {"seed": seed, "learning_rate": rates[1], "validation": 0.5, "test": score}
        for seed, score in enumerate(scores, 1)
    ]


def test_the_rate_is_chosen_by_validation_and_seeds_are_paired(tmp_path):
    found = cells("banking77", False, (0.70, 0.72, 0.71)) + cells("banking77", True, (0.71, 0.71, 0.74), (1e-3, 3e-2))
    assert best_rate(found[:2]) == 1e-2
    lines = table(found).splitlines()
    assert lines[2] == "| banking77 | 71.0 | 0.01 | 72.0 | 0.03 | +1.0 (+1.0, -1.0, +3.0) |"
    assert lines[3] == "| mean of 1 | | | | | +1.0 |"
    assert read(tmp_path / "none") == []


def test_a_task_without_all_its_seeds_is_left_out():
    found = cells("banking77", False, (0.70, 0.72, 0.71)) + cells("banking77", True, (0.71, 0.71))
    assert len(table(found).splitlines()) == 2
