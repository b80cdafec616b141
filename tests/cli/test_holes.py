"""doctor fails versions with known holes."""

import re
import tomllib

import pytest
from command_line import run
from places import ROOT

from clm_kernels.cli import doctor
from clm_kernels.cli.holes import HOLES, holes

NUMBERS = {hole.number: (hole.package, hole.mended) for hole in HOLES}


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"torch": "2.5.1"}, ["CVE-2025-32434", "CVE-2026-24747"]),
        ({"torch": "2.6.0+cu124"}, ["CVE-2026-24747"]),
        ({"torch": "2.9"}, ["CVE-2026-24747"]),
        ({"torch": "2.10"}, []),
        ({"torch": "2.10.0rc1"}, ["CVE-2026-24747"]),
        ({"torch": "2.10.0a0+git1234"}, ["CVE-2026-24747"]),
        ({"torch": "2.13.0+cpu"}, []),
        ({"torch": "2.10.0.post1"}, []),
        ({"torch": "unknown"}, ["CVE-2025-32434", "CVE-2026-24747"]),
        ({"transformers": "4.35.2"}, ["CVE-2023-6730", "CVE-2026-1839", "CVE-2026-4372", "CVE-2026-5241"]),
        ({"transformers": "4.57.3"}, ["CVE-2026-1839", "CVE-2026-4372", "CVE-2026-5241"]),
        ({"transformers": "5.2.0"}, ["CVE-2026-4372", "CVE-2026-5241"]),
        ({"transformers": "5.4.0.dev0"}, ["CVE-2026-5241"]),
        ({"transformers": "5.5.0.dev0"}, ["CVE-2026-5241"]),
        ({"transformers": "5.24.0", "torch": "2.11.0", "numpy": "1.0"}, []),
        ({}, []),
    ],
)
def test_holes_of_versions(versions, expected):
    assert [hole.number for hole in holes(versions)] == expected


def test_the_table_names_each_hole_once():
    assert len(NUMBERS) == len(HOLES) and all(re.fullmatch(r"CVE-\d{4}-\d{4,}", number) for number in NUMBERS)


def test_what_the_package_asks_for_has_none():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = dict(line.split(">=") for line in [*project["dependencies"], *project["optional-dependencies"]["train"]])
    assert list(holes(asked)) == [] and {"torch", "transformers"} <= asked.keys()


def test_doctor_fails_and_says_what_to_do(monkeypatch):
    assert run("doctor").exit_code == 0
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: {"torch": "2.5.1"}.get(name) or real(name))
    result = run("doctor")
    assert result.exit_code == 1
    said = "torch.load runs code of a file in spite of weights_only=True"
    assert f'FAIL torch 2.5.1, CVE-2025-32434: {said} to mend it: pip install "torch>=2.6.0"' in " ".join(result.stdout.split())
