"""Makes csrc/fields.h, which tells C++ and CUDA the fields of clm_kernels/ops/fields.py: ``python csrc/fields.py``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from clm_kernels.ops.fields import DOUBLES, ENUMS, SIGNATURE, STRUCTS  # noqa: E402

HEADER = """\
// What Python hands over. Made from clm_kernels/ops/fields.py: change that one, then run `python csrc/fields.py`.
#pragma once

#include <cstdint>

namespace clm {
"""


def enum(name: str, fields: tuple[str, ...]) -> str:
    """Dtypes keep their names; the others stand beside variables of the same name, and become kRows, kExpAvgs."""
    if name == "Dtype":
        return f"enum class {name} : int32_t {{ {', '.join(fields)} }};"
    names = ("k" + "".join(part.capitalize() for part in field.split("_")) for field in fields)
    return f"enum {name} : int32_t {{ {', '.join(names)} }};"


def struct(name: str, fields: tuple[str, ...]) -> str:
    return f"struct {name} {{ {'double' if name in DOUBLES else 'int64_t'} {', '.join(fields)}; }};"


def header() -> str:
    signature = SIGNATURE.replace("; ", '; "\n    "')
    lines = [
        *(enum(name, fields) for name, fields in ENUMS.items()),
        "",
        *(struct(name, fields) for name, fields in STRUCTS.items()),
        "",
        "// What a built module says that it was built with.",
        f'constexpr char kFields[] =\n    "{signature}";',
    ]
    return "\n".join([HEADER, *lines, "", "}  // namespace clm", ""])


if __name__ == "__main__":
    (HERE / "fields.h").write_text(header(), encoding="utf-8")
