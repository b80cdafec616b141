"""The table of targets: each number's name, what it should reach, and whether it does. By bytes and FLOP that must be."""

from __future__ import annotations

from collections.abc import Callable

Reach = tuple[str, Callable[[float], bool]]


def at_least(limit: float) -> Reach:
    return f">= {limit:g}", lambda x: x >= limit


def at_most(limit: float) -> Reach:
    return f"<= {limit:g}", lambda x: x <= limit


def exactly(number: int) -> Reach:
    return str(number), lambda x: x == number


OF = " of Llama-2-7B's linears, bf16 with float32 masters: "
ROWS, COLUMNS, BLOCKS = (f"adamw_step_, {what}{OF}" for what in ("1 % rows", "1 % columns", "10 % in 16 x 16 blocks"))
BERT = "adamw_step_, BERT-base, 10 % in 16 x 16 blocks: "
PRODUCT = "weight_grad 4096x4096, T=8192, bf16, "
STEP = "captured step of BERT-base, 32x128, bf16, dealt groups, all layers: "
TOKENS = "active tokens, 4096x4096, T=8192, bf16, dealt groups: "
LLAMA = "step of Llama-2-7B's shape, 8x64, bf16, 1 % columns: "

TESTS = {
    "GPU tests of the CUDA kernels: not passed": exactly(0),
    "GPU tests of every op: not passed": exactly(0),
    "GPU tests of models: not passed": exactly(0),
    "compute-sanitizer over the small sizes: errors": exactly(0),
}
ADAMW = {
    ROWS + "share of the copy bandwidth": at_least(0.8),
    ROWS + "kernels launched": exactly(1),
    ROWS + "torch fused over all / ours": at_least(45),
    BLOCKS + "share of the copy bandwidth": at_least(0.7),
    COLUMNS + "share of the copy bandwidth": at_least(0.7),
}
LAUNCH = {
    BERT + "microseconds on the device": at_most(110),
    BERT + "microseconds on the host": at_most(100),
}
PRODUCTS = {
    PRODUCT + "2 % rows: dense product / ours": at_least(7),
    PRODUCT + "2 % columns: dense product / ours": at_least(7),
    PRODUCT + "2 % in 64 x 64 blocks: dense product / ours": at_least(6),
    PRODUCT + "dealt groups, G = 8: dense product / ours": at_least(3.5),
    PRODUCT + "10 % in 8 x 8 blocks: ours / (dense product + gather)": at_most(1.15),
    PRODUCT + "1 % elements: ours / (dense product + gather)": at_most(1.15),
    PRODUCT + "10 % in 8 x 8 blocks: extra memory / (2 compact gradients + a strip)": at_most(1),
    PRODUCT + "1 % elements: extra memory / (2 compact gradients + a strip)": at_most(1),
}
CAPTURED = {
    STEP + "full / ours": at_least(1.2),
}
ACTIVE = {
    TOKENS + "ops that differ from the reference": exactly(0),
    STEP + "replays at energy 0.95 that train": exactly(3),
    TOKENS + "backward of every token / at 20 %": at_least(3),
}
SEVEN_B = {
    LLAMA + "peak GB": at_most(18),
    LLAMA + "time / LoRA's on all linears": at_most(0.8),
}
REACH = TESTS | ADAMW | LAUNCH | PRODUCTS | CAPTURED | ACTIVE | SEVEN_B
