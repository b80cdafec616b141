"""Time of the token groups of 100,000 texts on one core, and the tokens that merging groups saves. Needs the data sets."""

from __future__ import annotations

import json
import time
from pathlib import Path

from clm_kernels.demo import model_directory
from clm_kernels.finetune.models import load_tokenizer
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.token_groups import token_groups
from clm_kernels.token_groups.merging import merge_groups

from .accuracy import DATA
from .common import keep, row

TEXTS, MERGED = 100_000, 300


def read(path: Path) -> list[tuple[str, str]]:
    """(text, label) pairs; a sentence with tags counts as a text of its data set."""
    rows = (json.loads(line) for line in path.open(encoding="utf-8"))
    return [(r["text"], r["label"]) if "text" in r else (" ".join(r["tokens"]), path.parent.name) for r in rows]


def counting(tokenizer) -> dict[str, object]:
    texts = [pair for path in sorted(DATA.parent.glob("*/*.jsonl")) for pair in read(path)][:TEXTS]
    start = time.process_time()
    groups = token_groups(texts, tokenizer)
    seconds = time.process_time() - start  # of all threads together
    what = f"token groups of {len(texts):,} texts: seconds of one core"
    return row(what, seconds, "<= 30", seconds <= 30 and len(texts) == TEXTS, groups=len(groups), missed=groups.missed)


def merging(tokenizer, task: str) -> dict[str, object]:
    train, test = (read(DATA.parent / task / f"{part}.jsonl") for part in ("train", "test"))
    texts = [text for text, _ in train]
    merged = merge_groups(tokenizer, token_groups(train, tokenizer, top=MERGED), texts, top=MERGED)
    lengths = merged.report({"train": texts, "test": [text for text, _ in test]})["tokens_per_text"]
    saved = {part: 1 - means["after"] / means["before"] for part, means in lengths.items()}
    what = f"{task}, {MERGED} merged tokens: share of the test texts' tokens saved"
    return row(what, saved["test"], ">= 0.1", min(saved.values()) >= 0.1, train=saved["train"], tokens_per_text=lengths)


def main() -> list[dict[str, object]]:
    if not DATA.parent.is_dir():
        raise SystemExit(f"benchmarks.groups: needs the data sets in {DATA.parent}; CLM_KERNELS_DATA names another place")
    tokenizer = load_tokenizer(model_directory(), TASKS["sequence"])
    rows = [counting(tokenizer), *(merging(tokenizer, task) for task in ("banking77", "clinc150"))]
    keep("groups", rows)
    return rows


if __name__ == "__main__":
    main()
