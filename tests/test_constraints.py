"""`constraints/` pins what pyproject.toml asks for: the oldest that it allows, and what the last green run had."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from clm_kernels import extras

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNBOUND = {"ruff", "mypy"}  # that look at the code and run none of it; the newest is used with the oldest, too


def brought(extra):
    """The requirements of an extra, with those of the extras that it names."""
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "clm-kernels":
            for other in sorted(requirement.extras):
                yield from brought(other)
        else:
            yield requirement


CORE = list(map(Requirement, PROJECT["dependencies"]))
ASKED = [r for r in dict.fromkeys([*CORE, *brought("test")]) if r.name not in UNBOUND]


def test_the_tests_have_all_that_is_optional():
    assert {r.name for extra in EXTRAS for r in brought(extra)} == {r.name for r in brought("test")}


def test_each_missing_package_is_told_with_the_extra_that_brings_it():
    """Some come along with another one that is asked for, or under another name."""
    others = dict.fromkeys(("tokenizers", "filelock", "yaml", "huggingface_hub"), "transformers")
    others |= dict.fromkeys(("pydantic", "starlette"), "fastapi") | dict.fromkeys(("pyarrow", "tqdm"), "datasets")
    others |= {"sklearn": "scikit-learn"}
    for package, extra in extras.EXTRAS.items():
        assert canonicalize_name(others.get(package, package)) in {canonicalize_name(r.name) for r in brought(extra)}
    told = {canonicalize_name(others.get(package, package)) for package in extras.EXTRAS}
    assert told == {canonicalize_name(r.name) for extra in ("all", "demo", "triton") for r in brought(extra)}


def pins(which):
    lines = (ROOT / "constraints" / f"{which}.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_oldest_is_the_lower_bound_itself(asked):
    (bound,) = [Version(spec.version) for spec in asked.specifier if spec.operator in (">=", "==")]
    assert pins("oldest")[canonicalize_name(asked.name)].release[: len(bound.release)] == bound.release


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_newest_is_allowed(asked):
    newest, oldest = (pins(which)[canonicalize_name(asked.name)] for which in ("newest", "oldest"))
    assert newest in asked.specifier and newest >= oldest
