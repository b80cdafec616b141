"""Keeps transformers, datasets and torch's profiler from talking over the command line's own output."""

from __future__ import annotations

import importlib.util
import os
import warnings


def quiet() -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read once, when torch is imported
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if importlib.util.find_spec("datasets"):  # only `train` and its kin need it
        import datasets

        datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message="Glyph .* missing")  # a picture has boxes there
    warnings.filterwarnings("ignore", module="transformers|torch.utils.data|accelerate")
