"""CONTRIBUTING names the files that a new kernel, method, task or kind touches: each of them exists."""

import re
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (Add a .+?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE))
AT_LEAST = {"Add a kernel": 15, "Add a method": 6, "Add a task": 5, "Add a kind of unit": 5}


def paths(section: str) -> list[str]:
    """What stands in backticks in the section's bullets and is a path in the repository."""
    bullets = re.findall(r"^- (.*(?:\n  .*)*)", SECTIONS[section], flags=re.MULTILINE)
    return [code for bullet in bullets for code in re.findall(r"`([^`\s]+)`", bullet) if "/" in code]


def test_its_sections():
    assert SECTIONS.keys() == AT_LEAST.keys()
    assert {section: len(paths(section)) >= least for section, least in AT_LEAST.items()} == dict.fromkeys(AT_LEAST, True)


@pytest.mark.parametrize("path", dict.fromkeys(path for section in SECTIONS for path in paths(section)))
def test_what_it_names_exists(path):
    """Of a file that is to be made, the folder."""
    place = ROOT / path
    assert place.parent.is_dir() if "<name>" in path else place.exists()
    assert place.is_dir() == path.endswith("/")
