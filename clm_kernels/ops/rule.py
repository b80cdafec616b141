"""Which `weight_grad` was fastest, measured. Written by ``python -m benchmarks.rule``; to be changed by measuring again.

Work is tokens x rows x columns of the weight, density the selected part of it. The first band that a call's work and
density do not exceed names the implementation. A device, kind or dtype (of dy and x) that is not here is not measured:
there the registry's `AUTO` says what runs. The plain way is not among them, as it builds the dense gradient: ``matmul`` is
the same library's product of the selected parts, for elements strip by strip of the dense one.
"""

from math import inf

SOURCES = {
    "cpu": "AMD EPYC, 2 threads, torch 2.13.0+cpu, commit 1a5beee",
}

TABLE = {
    "cpu": {
        ("rows", "float32"): ((inf, inf, "cpu"),),
        ("rows", "bfloat16"): ((inf, inf, "cpu"),),
        ("columns", "float32"): (
            (2.1e08, 0.77, "cpu"),
            (2.1e08, inf, "matmul"),
            (inf, inf, "cpu"),
        ),
        ("columns", "bfloat16"): ((inf, inf, "cpu"),),
        ("blocks", "float32"): ((inf, inf, "cpu"),),
        ("blocks", "bfloat16"): ((inf, inf, "cpu"),),
        ("elements", "float32"): (
            (2.1e08, 0.77, "cpu"),
            (2.1e08, inf, "matmul"),
            (inf, 0.42, "cpu"),
            (inf, inf, "matmul"),
        ),
        ("elements", "bfloat16"): (
            (1.2e09, 0.77, "cpu"),
            (1.2e09, inf, "matmul"),
            (inf, 0.42, "cpu"),
            (inf, inf, "matmul"),
        ),
    },
}
