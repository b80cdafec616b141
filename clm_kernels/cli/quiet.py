"""Keeps transformers, datasets and torch's profiler from talking over the command line's own output."""

from __future__ import annotations

import os
import warnings


def quiet() -> None:
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    warnings.filterwarnings("ignore", module="transformers|torch.utils.data|accelerate")
