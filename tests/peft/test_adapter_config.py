"""`ClmConfig`: what it refuses, what of it is saved."""

import pytest
from peft import PeftConfig

from clm_kernels import Entries, Selection
from clm_kernels.defaults import DENSITY, DENSITY_GROUPS
from clm_kernels.peft import ClmConfig

GIVEN = Selection({"a.weight": Entries.of("rows", [1], (4, 4))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "heads"}, "kind must be 'groups', 'rows', 'columns', 'blocks', 'elements' or 'given', got 'heads'"),
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": "much"}, r"density must be in \(0, 1\], got 'much'"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"block": 0}, "block must be a whole number of at least 1, got 0"),
        ({"block": 2.5}, "block must be a whole number of at least 1, got 2.5"),
        ({"selection": 3}, "selection must be a Selection or the path of one, got int"),
        ({"selection": GIVEN, "density": 0.1}, "density must be left out where a selection is given, got 0.1"),
        ({"selection": GIVEN, "kind": "rows"}, "kind must be left out, or 'given', where a selection is given, got 'rows'"),
        ({"target_modules": "a.*", "layers_to_transform": 1}, "target_modules must be names where"),
        ({"layers_pattern": "layer"}, "layers_pattern must be left out where layers_to_transform is, got 'layer'"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=f"ClmConfig: {message}"):
        ClmConfig(**options)


def test_it_is_saved_without_its_selection(tmp_path):
    ClmConfig(selection=GIVEN, seed=5, target_modules=["a"]).save_pretrained(tmp_path)
    again = PeftConfig.from_pretrained(tmp_path)
    assert type(again) is ClmConfig
    assert (again.kind, again.seed, again.target_modules, again.selection) == ("given", 5, {"a"}, None)


def test_defaults_are_the_packages():
    assert (ClmConfig().share, ClmConfig(kind="rows").share) == (DENSITY_GROUPS, DENSITY)
    assert ClmConfig().seed == 42
