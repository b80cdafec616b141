"""``python -m benchmarks.architectures [TYPE ...]``: tries each type of the two mappings, and keeps what it found."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto as auto

from clm_kernels.models.refused import REASONS

from ..common import write
from .table import RESULT, write_table
from .tiny import save_tiny
from .trial import pooled, replayed, trial

LIMIT = 60  # seconds of one type
MAPPINGS = {
    "sequence": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}


def tried(kind: str) -> dict[str, str]:
    """What became of one type: "yes", "-" where transformers has no such class, or why not."""
    if kind in REASONS:
        return {task: REASONS[kind] if kind in names else "-" for task, names in MAPPINGS.items()} | {
            "pooling": "-",
            "replay": "-",
        }
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            save_tiny(kind, folder)
        except TimeoutError:
            raise
        except Exception as error:
            return {"sequence": said(error), "token": said(error), "pooling": "-", "replay": "-"}
        for task, names in MAPPINGS.items():
            found[task] = outcome(partial(trial, folder, task)) if kind in names else "-"
        for what, check in (("pooling", pooled), ("replay", replayed)):
            found[what] = outcome(partial(check, folder)) if found["sequence"] == "yes" else "-"
    return found


def outcome(what: Callable[[], Any]) -> str:
    try:
        what()
    except TimeoutError:
        raise
    except Exception as error:
        return said(error)
    return "yes"


def said(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return (line if isinstance(error, (ValueError, AssertionError)) else f"{type(error).__name__}: {line}")[:200]


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kinds = sys.argv[1:] or sorted({*MAPPINGS["sequence"], *MAPPINGS["token"]})
    stored = json.loads(RESULT.read_text()) if RESULT.is_file() else {"types": {}}
    signal.signal(signal.SIGALRM, timed_out)
    for kind in kinds:
        start = time.process_time()
        signal.alarm(LIMIT)
        try:
            stored["types"][kind] = tried(kind)
        except TimeoutError:
            stored["types"][kind] = dict.fromkeys(("sequence", "token"), f"nothing after {LIMIT} s") | dict.fromkeys(
                ("pooling", "replay"), "-"
            )
        signal.alarm(0)
        print(f"{kind} ({time.process_time() - start:.1f} s): {stored['types'][kind]}", flush=True)
        stored |= {"transformers": transformers.__version__, "torch": torch.__version__}
        stored["types"] = dict(sorted(stored["types"].items()))
        write(RESULT, stored)
    write_table(stored)


def timed_out(*_: Any) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main()
