"""Tables of a selection."""

from clm_kernels.cli import show
from clm_kernels.finetune import TrainConfig

LINE = {
    "layer": "0", "part": "query", "name": "l.0.query.weight", "kind": "blocks", "selected_units": 1, "units": 8,
    "selected_entries": 64, "entries": 512, "sensitivity": None, "chosen": None,
}  # fmt: skip


def test_what_was_drawn_by_chance_takes_one_line():
    assert show.selection([LINE], "groups") == "selected: 64 entries of 1 weights, by groups, drawn by chance (12.5%)"
    assert show.selection([LINE]).row_count == 1


def test_when_units_are_drawn_by_chance():
    drawn = [{}, {"kind": "groups"}, {"block": 4}, {"select": "random"}, {"layers": "upper half"}]
    scored = [
        {"select": "fisher"},
        {"per": "weight"},
        {"selection": "s"},
        {"backward": 0.5},
        {"selection": "s", "select": "random"},
    ]
    assert all(TrainConfig(**options).selecting.by_chance for options in drawn)
    assert not any(TrainConfig(**options).selecting.by_chance for options in scored)
