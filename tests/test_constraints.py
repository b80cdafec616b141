"""`constraints/` pins what pyproject.toml asks for: the oldest that it allows, and what the last green run had."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEST = PROJECT["optional-dependencies"]["test"]
ASKED = [r for r in map(Requirement, [*PROJECT["dependencies"], *TEST]) if r.name != "clm-kernels" and r.name != "ruff"]


def pins(which):
    lines = (ROOT / "constraints" / f"{which}.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_oldest_is_the_lower_bound_itself(asked):
    (bound,) = [Version(spec.version) for spec in asked.specifier if spec.operator == ">="]
    assert pins("oldest")[canonicalize_name(asked.name)].release[: len(bound.release)] == bound.release


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_newest_is_allowed(asked):
    newest, oldest = (pins(which)[canonicalize_name(asked.name)] for which in ("newest", "oldest"))
    assert newest in asked.specifier and newest >= oldest
