"""Which files a run may write into its folder: its record tells them, and `--overwrite` takes these away and no others."""

from __future__ import annotations

import os
import tempfile

from .artifacts import ACTIVE, COST_PICTURE, GROUPS, PAGE, PICTURE, REPORT, RUN, RUN_FILE, SCOPE, SCORES, SELECTION
from .methods import Method
from .models import Loaded
from .outputs import OURS

ANY = (RUN, RUN_FILE, SELECTION, REPORT, PAGE, ACTIVE, SCOPE, COST_PICTURE, "config.json")  # of any method


def files_of(method: Method, loaded: Loaded, scored: bool, grouped: bool) -> list[str]:
    """Names out of `OURS`; of the tokenizer those that it really saves.

    Args:
        scored: whether what is trained was chosen by scores.
        grouped: whether token groups were found.
    """
    with tempfile.TemporaryDirectory(prefix="clm-tokenizer-") as folder:
        loaded.tokenizer.save_pretrained(folder)
        names = {*ANY, *method.files(loaded), *os.listdir(folder)}
    names |= {SCORES, PICTURE} if scored else set()
    return [name for name in OURS if name in names or (grouped and name == GROUPS)]
