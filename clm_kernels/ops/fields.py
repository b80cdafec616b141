"""What Python and the kernels hand each other: the names of all fields, in the order in which they lie in memory.

C++ and CUDA know them from csrc/fields.h, which ``python csrc/fields.py`` makes from this file. Numbers are those of the places
in these tuples, counted from 0.
"""

from types import ModuleType

from .layout import KINDS, Layout

DTYPES = ("float32", "float64", "bfloat16", "float16")
ARRAYS = ("values", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "masters", "anchors")  # the compact ones of `Parameters`
TENSORS = (*ARRAYS, "denses", "indices")
SETTINGS = ("lr", "beta1", "beta2", "eps", "weight_decay", "step")  # columns of the table of `ops.adamw_step_`

ARRAY = ("address", "dtype")
MATRIX = ("address", "stride", "dtype", "sliced")
ENTRIES = (*Layout._fields, "index", "index_bytes", "count", "size")  # size: of the compact tensor

ENUMS = {"Kind": KINDS, "Dtype": DTYPES, "Arrays": ARRAYS}
STRUCTS = {"Settings": SETTINGS, "ArrayFields": ARRAY, "MatrixFields": MATRIX, "EntriesFields": ENTRIES}
DOUBLES = ("Settings",)  # of `STRUCTS` those of doubles, the others are of int64
SIGNATURE = "; ".join(f"{name}: {' '.join(fields)}" for name, fields in (ENUMS | STRUCTS).items())


def check_build(module: ModuleType) -> None:
    """Raises ImportError for a module that was built with other fields, and would take one address for another."""
    if getattr(module, "fields", None) != SIGNATURE:
        raise ImportError(f"{module.__name__} was built from other sources than these")
