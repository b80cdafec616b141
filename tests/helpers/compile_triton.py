"""Compiles every Triton kernel for GPUs that need not be there; prints a JSON line of resources for each.

Run by test_triton.py in a process of its own, as kernels are either interpreted or compiled.
"""

import json
import re
import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from clm_kernels.ops.grouped import Shape
from clm_kernels.ops.triton.adamw import CHUNK, adamw
from clm_kernels.ops.triton.embedding import sum_segments
from clm_kernels.ops.triton.fisher import WARPS, quadratic_forms
from clm_kernels.ops.triton.fisher import tile_sizes as sensitivity_tiles
from clm_kernels.ops.triton.gradients import outer_product, tile_sizes
from clm_kernels.ops.triton.grouped_grad import grouped_product, grouped_tiles
from clm_kernels.ops.triton.grouped_grad import warps as grouped_warps
from clm_kernels.ops.triton.sampled_product import ELEMENTS, TOKENS, sampled_product
from clm_kernels.ops.triton.tokens import CHUNK as CHOSEN_FROM
from clm_kernels.ops.triton.tokens import (
    CHUNK_WARPS,
    COLUMNS,
    DRAWN_CHUNK,
    choose_tokens,
    draw_tokens,
    squared_norms,
    token_product,
    token_tiles,
)

TARGETS = {"sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32), "gfx942": GPUTarget("hip", "gfx942", 64)}
STRIDES = ("dy_stride", "x_stride")
OPERANDS = ("dy_columns", "x_columns", *STRIDES)  # what `padded` sees to; the result's rows and columns may be odd
ACTIVE = ("active", "active_count")


def cases(target):
    """(name, kernel, types of the pointers and floats, constants, which integers are multiples of 16, warps)

    Halves of either kind are moved and multiplied alike: float16 is compiled for one target.
    """
    import torch
    import triton.language as tl

    dtypes = {torch.bfloat16: "bf16", torch.float32: "fp32"} | ({torch.float16: "fp16"} if target == "sm_80" else {})
    for dtype, name in dtypes.items():
        for kind, shape in (("rows", (82, 4096)), ("columns", (4096, 82)), ("blocks", (64, 64)), ("blocks", (8, 8))):
            tile_rows, tile_columns, tokens = tile_sizes(*shape, dtype)
            block_rows, block_columns = shape if kind == "blocks" else (0, 0)
            constants = {
                "BLOCK_ROWS": block_rows, "BLOCK_COLUMNS": block_columns, "WIDEN": False,
                "PRECISION": "ieee" if name == "fp32" else "tf32",
                "TILE_ROWS": tile_rows, "TILE_COLUMNS": tile_columns, "TOKENS": tokens,
            }  # fmt: skip
            pointers = {"dy": f"*{name}", "x": f"*{name}", "index": "*i32", "out": "*fp32"}
            warps = 4 if tile_rows * tile_columns < 128 * 128 else 8
            yield from weight_grads(f"{kind} {block_rows or ''} {name}", outer_product, pointers, constants, OPERANDS, warps)
        tile_rows, tile_columns, tokens = grouped_tiles([Shape(8, 32, 32)], 16, 16, dtype)
        constants = {
            "HEIGHT": 16, "WIDTH": 16, "TILE_ROWS": tile_rows, "TILE_COLUMNS": tile_columns, "TOKENS": tokens,
            "PRECISION": "ieee" if name == "fp32" else "tf32", "WIDEN": False,
        }  # fmt: skip
        pointers = {"dy": f"*{name}", "x": f"*{name}", "tiles": "*i32", "out": "*fp32"}
        pointers |= dict.fromkeys(("rows", "columns", "firsts"), "*i64")
        warps = grouped_warps(tile_rows, tile_columns)
        yield from weight_grads(f"groups {name}", grouped_product, pointers, constants, STRIDES, warps)
        pointers = {"dy": f"*{name}", "x": f"*{name}", "index": "*i32", "out": f"*{name}"}
        constants = {"SIZE": ELEMENTS, "STEP": TOKENS}
        yield from weight_grads(f"elements {name}", sampled_product, pointers, constants, ("tokens", *STRIDES), 4)
        tile_tokens, tile_columns, step = token_tiles(dtype)
        constants = {
            "TILE_TOKENS": tile_tokens, "TILE_COLUMNS": tile_columns, "ROWS": step, "WIDEN": False,
            "PRECISION": "ieee" if name == "fp32" else "tf32",
        }  # fmt: skip
        pointers = dict.fromkeys(("dy", "weight", "dx"), f"*{name}") | dict.fromkeys(ACTIVE, "*i64")
        for what, unit, other in (
            ("", "weight_column_stride", "weight_stride"), ("transposed ", "weight_stride", "weight_column_stride"),
        ):  # fmt: skip
            multiples = ("rows", "columns", "dy_stride", other)
            yield f"input_grad {what}{name}", token_product, pointers, constants | {unit: 1}, multiples, 4
        constants, pointers = {"COLUMNS": COLUMNS, "column_stride": 1}, {"dy": f"*{name}", "out": "*fp64"}
        yield f"active_tokens norms {name}", squared_norms, pointers, constants, ("width", "dy_stride"), 4
    for counted in (False, True):
        pointers = {"norms": "*fp64", "energies": "*i32", "index": "*i64", "count": "*i64", "part": "fp64"}
        constants = {"COUNTED": counted, "CHUNK": CHOSEN_FROM}
        yield f"active_tokens {'share' if counted else 'energy'}", choose_tokens, pointers, constants, (), CHUNK_WARPS
    pointers = {
        "squares": "*fp64",
        "norms": "*i32",
        "index": "*i64",
        "count": "*i64",
        "weight": "*fp32",
        "start": "*fp64",
        "noise": "fp64",
    }
    yield "drawn_tokens", draw_tokens, pointers, {"CHUNK": DRAWN_CHUNK}, (), CHUNK_WARPS
    for dtype, name in dtypes.items():
        tokens, units, step = sensitivity_tiles(512, 3072, dtype)
        constants = {
            "SPLIT": name == "bf16", "WIDEN": False, "PRECISION": "ieee", "TOKENS": tokens, "UNITS": units, "STEP": step,
        }  # fmt: skip
        pointers = {"gram": "*fp32", "units": f"*{name}", "out": "*fp32"}
        multiples = ("gram_stride", "width", "batch_stride", "token_stride")
        yield f"sensitivity {name}", quadratic_forms, pointers, constants, multiples, WARPS
    pointers = {"dy": "*bf16", "token": "*i64", "begins": "*i64", "ends": "*i64", "out": "*bf16"}
    yield "embedding_grad", sum_segments, pointers, {"COLUMNS": 256}, ("width", "dy_stride"), 4
    pointers = dict.fromkeys(("chunks", "addresses", "grads", "shapes"), "*i64")
    pointers |= {"scalars": "*fp64", "grad_scale": "*fp32", "found_inf": "*fp32", "clip": "*fp32"}
    for value, master in ((tl.bfloat16, True), (tl.float32, False)):
        constants = {
            "VALUE": value, "GRAD": value, "MOMENT": tl.float32, "MASTER": tl.float32, "ANCHOR": value, "INDEX": tl.int32,
            "WIDE": tl.float32, "HAS_MASTER": master, "ANCHORED": True, "AMSGRAD": True, "SCALED": True,
            "SKIPPED": True, "CLIPPED": True, "SIZE": CHUNK,
        }  # fmt: skip
        yield f"adamw_step_ {value}", adamw, pointers, constants, (), 4


def weight_grads(name, kernel, pointers, constants, multiples, warps):
    """Of every token, and of active ones."""
    active = [argument for argument in ACTIVE if argument in kernel.arg_names]
    yield f"weight_grad {name}", kernel, pointers, constants | dict.fromkeys(active), multiples, warps
    yield f"weight_grad of active tokens, {name}", kernel, pointers | dict.fromkeys(active, "*i64"), constants, multiples, warps


def resources(compiled, target: str) -> dict:
    if target.startswith("gfx"):
        number = {key: int(re.search(rf"\.{key}:\s+(\d+)", compiled.asm["amdgcn"])[1]) for key in
                  ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count")}  # fmt: skip
        return {"registers": number["vgpr_count"], "spills": number["vgpr_spill_count"] + number["sgpr_spill_count"]}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ptx = compiled.asm["ptx"]
    return {
        "registers": int(re.search(r"REG:(\d+)", shown)[1]),
        "spills": int(re.search(r"STACK:(\d+)", shown)[1]),
        "narrow": len(re.findall(r"ld\.global\S*\.[bus](?:8|16)\b", ptx)),  # loads of less than 4 bytes
        "wide": len(re.findall(r"ld\.global\S*\.v4\.[bus]32\b|cp\.async\.cg\.\S+ [^;]*\], 0x10\b", ptx)),  # of 16 bytes
        "divisions": len(re.findall(r"\b(?:div|rem)\.[su]64\b", ptx)),
    }


def main(target: str) -> None:
    for name, kernel, pointers, constants, multiples, warps in cases(target):
        signature = {a: "constexpr" if a in constants else pointers.get(a, "i32") for a in kernel.arg_names}
        at = kernel.arg_names.index
        aligned = {(at(a),): [["tt.divisibility", 16]] for a in (*pointers, *multiples) if signature[a] != "fp64"}
        source = ASTSource(kernel, signature, {(at(a),): value for a, value in constants.items()}, aligned)
        compiled = triton.compile(source, target=TARGETS[target], options={"num_warps": warps})
        print(json.dumps({"kernel": name, "shared": compiled.metadata.shared, **resources(compiled, target)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
