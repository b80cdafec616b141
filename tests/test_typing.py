"""What type checkers see; `mypy` itself, with the user's program in typing_user.py, runs in .ci/run."""

import ast
import tomllib

import pytest
from places import ROOT

import clm_kernels as clm

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
JUDGED = [ROOT / path for path in PROJECT["tool"]["mypy"]["files"]]


def home(module):
    path = ROOT.joinpath("clm_kernels", *module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("module", sorted({*clm._HOMES.values(), "ops"}))
def test_every_public_name_comes_from_a_module_that_mypy_judges(module):
    assert any(home(module).is_relative_to(path) for path in JUDGED)


def test_what_mypy_judges_is_there():
    assert all(path.exists() for path in JUDGED) and ROOT / "tests" / "typing_user.py" in JUDGED


def test_type_checkers_see_the_names_that_are_loaded_lazily():
    tree = ast.parse((ROOT / "clm_kernels" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.asname: f"{node.module or ''}" for node in block.body for alias in node.names}
    assert seen == clm._HOMES | {"ops": ""}


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "clm_kernels" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["clm_kernels"]
