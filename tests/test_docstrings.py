"""Every public name says what it is, what it takes and what it raises."""

import inspect
import re

import pytest

import clm_kernels as clm
from clm_kernels import ops

PUBLIC = {
    f"{owner.__name__}.{name}": getattr(owner, name) for owner in (clm, ops) for name in owner.__all__ if name != "__version__"
}
RAISE_NOTHING = {"bidirectional_layers", "causal", "interpreted", "warm_up_head", "weighed"}  # of their own


def chosen(of):
    return [pytest.param(found, id=name) for name, found in PUBLIC.items() if of(found)]


def section(found, title):
    """The lines below ``title:``, up to the next one that stands as far left."""
    return re.search(rf"^{title}:\n((?:    .*\n|\n)*)", inspect.getdoc(found) + "\n", re.MULTILINE)


def documented(found):
    lines = section(found, "Args").group(1).splitlines()
    return {name for line in lines if (match := re.match(r"    (\w+(?:, \w+)*): ", line)) for name in match.group(1).split(", ")}


@pytest.mark.parametrize("found", chosen(lambda found: True))
def test_it_has_a_docstring_of_its_own(found):
    first = (found.__doc__ or "").partition("\n")[0]
    assert len(first) > 20 and not first.startswith(f"{found.__name__}(")  # which a dataclass gets by itself


@pytest.mark.parametrize("found", chosen(inspect.isfunction))
def test_a_function_says_what_it_takes(found):
    assert documented(found) == set(inspect.signature(found).parameters)


@pytest.mark.parametrize("found", chosen(lambda found: inspect.isclass(found) and section(found, "Args")))
def test_a_class_that_users_make_says_what_it_takes(found):
    assert documented(found) == set(inspect.signature(found).parameters)


def test_which_classes_users_make():
    assert {found.__name__ for found in PUBLIC.values() if inspect.isclass(found) and section(found, "Args")} == {
        "Entries", "Selection", "SparseAdamW", "TrainConfig", "Trunk", "profiling",
    }  # fmt: skip


def test_a_function_says_what_it_raises():
    assert {
        found.__name__ for found in PUBLIC.values() if inspect.isfunction(found) and not section(found, "Raises")
    } == RAISE_NOTHING


@pytest.mark.parametrize("found", chosen(inspect.isclass))
def test_public_methods_have_docstrings(found):
    methods = {name: value for name, value in vars(found).items() if not name.startswith("_") and callable(value)}
    assert [name for name, value in methods.items() if not inspect.getdoc(value)] == []
