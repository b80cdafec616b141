"""Imported by tests of the recipe: where datasets is not installed, as beside a GPU, the module that does so is skipped."""

import pytest

pytest.importorskip("datasets", reason="the recipe needs datasets, which is not installed", exc_type=ModuleNotFoundError)
