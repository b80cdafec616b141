"""Real rows to compare on: a file's, or those that validated the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import require
from ..artifacts import RUN
from ..config import Data, TrainConfig
from ..data import check_known, load_data, read_split
from ..outputs import recorded_config
from ..split import Split
from .served import Served

MOST = 1000


def real_rows(served: Served, folder: Path, file: str = "", most: int = MOST) -> Split | None:
    """Labelled rows, evenly spread over a file; None where none is named and the run's are gone.

    Args:
        folder: where the result lies, with the record of its run if there is one.
        file: labelled, as for `train`, with the columns of training.

    Raises:
        ValueError: for a file that cannot be read, or with a label that the model does not have.
    """
    config = recorded_config(folder) if (folder / RUN).is_file() else TrainConfig()
    if file:
        require(Path(file).is_file(), "export", "data", "an existing file", repr(file))
        rows = read_split(file, served.task, config.data)
        check_known("export", rows, served.task, served.labels, "as in training")
    elif _there(config.data):
        rows = load_data(config.replace(task=served.task.name).data, config.run.seed).validation
    else:
        return None
    return rows.part(np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)))


def _there(data: Data) -> bool:
    return bool(data.train) and all(Path(path).is_file() for path in (data.train, data.validation) if path)
