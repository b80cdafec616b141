"""A trunk of 20 tasks on MiniLM beside 20 merged models: memory, mixed batches, one text through every task, switching.

    python -m benchmarks.serving --output benchmarks/results/serving

The deltas hold random values at 10 % of the entries; nothing is trained. Seconds are of one thread and of the processor, which
others on the machine do not stop; the variants take turns, and ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import datasets
import torch
import transformers

from clm_kernels import Classifier, Delta, Recipe, Trunk
from clm_kernels.delta import read
from clm_kernels.demo import INTENTS, model_directory
from clm_kernels.finetune.models import load
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.fingerprint import fingerprint
from clm_kernels.models.conform import recipe_of
from clm_kernels.models.structure import bias_names, depths, norm_names, weights
from clm_kernels.selecting.units.dealing import dealt_groups

from .common import interleaved, machine, medians, ratio, row, write

COUNT, TEXTS, DENSITY = 20, 64, 0.1
LABELS = (2, 3, 5, 8, 13, 27, 77)  # of the tasks, in turn
LAYERS = {"all": 0, "upper third": 4}  # whose entries are selected, and the first of MiniLM's six layers that changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/serving"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--held", choices=("trunk", "merged"), help="load the deltas of --folder so, and print the memory it takes"
    )
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if asked.held:
        print(resident(asked.held, asked.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {layers: save_deltas(Path(folder) / layers.replace(" ", "_"), layers) for layers in LAYERS}
        rows = [memory(files["all"]), *mixed(files["all"], asked.rounds), *every_task(files["upper third"], asked.rounds)]
        rows += switching(files["all"])
    write(asked.output / "serving.json", {"machine": machine(), "rows": rows})
    (asked.output / "table.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def save_deltas(folder: Path, layers: str) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{i}.safetensors" for i in range(COUNT)]
    for i, path in enumerate(paths):
        random_delta(layers, LABELS[i % len(LABELS)], i).save(path)
    return paths


def random_delta(layers: str, labels: int, seed: int, base: Path | None = None) -> Delta:
    """Dealt groups, biases and norms of these layers, and a head, each by chance some way from the base."""
    torch.manual_seed(seed)
    base = base or model_directory()
    names = [f"label {i}" for i in range(labels)]
    loaded = load(base, TASKS["sequence"], names, "mean")
    model, depth = loaded.model, depths(loaded.model)
    named, selection = weights(model), dealt_groups(model, density=DENSITY, layers=layers, seed=seed)
    inside = [name for name in bias_names(model) | norm_names(model) if LAYERS[layers] <= depth[name] < float("inf")]
    whole = sorted({*inside, *loaded.head})

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach() + 0.1 * tensor.detach().abs().mean() * torch.randn_like(tensor)

    values = {name: changed(read(named[name], entries)) for name, entries in selection.items()}
    marks = {name: fingerprint(read(named[name], entries)) for name, entries in selection.items()}
    marks |= {name: fingerprint(named[name]) for name in whole if name not in loaded.head}
    longest = min(128, model.config.max_position_embeddings)
    recipe = recipe_of(model, Recipe(task="sequence", model=str(base), max_length=longest, pooling="mean"))
    return Delta(selection, values, {name: changed(named[name]) for name in whole}, marks, names, recipe)


def texts(count: int = TEXTS) -> list[str]:
    lines = (INTENTS / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:count]]


def trunk_of(files: Sequence[Path]) -> Trunk:
    trunk = Trunk(model_directory())
    for i, file in enumerate(files):
        trunk.add(str(i), file)
    return trunk


def merged_of(files: Sequence[Path]) -> list[Classifier]:
    return [Classifier.load(model_directory(), file) for file in files]


def memory(files: Sequence[Path]) -> dict[str, object]:
    held = {how: _in_a_process(how, files[0].parent) for how in ("merged", "trunk")}
    of_trunk = {"after_loading": held["trunk"][0], "after_both_ways": held["trunk"][1], "merged": held["merged"][1]}
    share = held["trunk"][1] / held["merged"][1]
    return row("resident memory beside 20 merged copies", share, "<= 0.25", share <= 0.25, bytes=of_trunk)


def _in_a_process(how: str, folder: Path) -> list[int]:
    command = [sys.executable, "-m", "benchmarks.serving", "--held", how, "--folder", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def resident(how: str, folder: Path) -> list[int]:
    """Bytes that this process has grown by: once all is loaded, and once all of it has run."""
    files = sorted(folder.glob("*.safetensors"), key=lambda path: int(path.stem))
    list(Classifier.load(model_directory(), files[0]).predict(texts(2)))  # what is loaded and imported once, whatever is held
    before = _resident()
    held: Any = trunk_of(files) if how == "trunk" else merged_of(files)
    loaded = _resident() - before
    if how == "trunk":
        for mix in (True, False):
            held.classify(texts(COUNT), _names(COUNT), mix=mix)
    else:
        [list(model.predict(texts(2))) for model in held]
    return [loaded, _resident() - before]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _names(count: int) -> list[str]:
    return [str(i % COUNT) for i in range(count)]


def mixed(files: Sequence[Path], rounds: int) -> list[dict[str, object]]:
    trunk, merged, some = trunk_of(files), merged_of(files), texts()
    names = _names(TEXTS)
    own = [[text for text, name in zip(some, names) if name == str(i)] for i in range(COUNT)]
    expected = {i: list(merged[i].predict(own[i])) for i in range(COUNT)}
    check(trunk.classify(some, names, mix=True), [expected[i % COUNT][i // COUNT] for i in range(TEXTS)], 1e-5)
    check(trunk.classify(some, names, mix=False), [expected[i % COUNT][i // COUNT] for i in range(TEXTS)], 0.0)
    variants: dict[str, Callable[[], object]] = {
        "mixed": lambda: trunk.classify(some, names, mix=True),
        "exact": lambda: trunk.classify(some, names, mix=False),
        "one merged model": lambda: list(merged[0].predict(some)),
        "loop over merged models": lambda: [list(model.predict(mine)) for model, mine in zip(merged, own)],
        "loop over texts": lambda: [merged[i % COUNT].predict(text) for i, text in enumerate(some)],
    }
    seconds = interleaved(variants, rounds, warm_up=1, clock=process_time)
    times = {"milliseconds": medians(seconds), "texts": TEXTS, "rounds": rounds}
    beside = ratio(seconds, "mixed", "one merged model")
    loop = ratio(seconds, "loop over merged models", "mixed")
    one_by_one = ratio(seconds, "loop over texts", "mixed")
    return [
        row("mixed batch of 64 texts over 20 tasks, time beside one merged model", beside, "<= 1.6", beside <= 1.6, **times),
        row("loop over 20 merged models, each its own texts, beside the mixed batch", loop, ">= 4", loop >= 4),
        row("loop over the 64 texts, each by its own merged model, beside the mixed batch", one_by_one, "", True),
    ]


def every_task(files: Sequence[Path], rounds: int) -> list[dict[str, object]]:
    trunk, merged, text = trunk_of(files), merged_of(files), texts(1)[0]
    expected = [model.predict(text) for model in merged]
    for mix, tolerance in ((True, 1e-5), (False, 0.0)):
        check(list(trunk.classify(text, mix=mix).values()), expected, tolerance)
    variants: dict[str, Callable[[], object]] = {
        "mixed": lambda: trunk.classify(text, mix=True),
        "exact": lambda: trunk.classify(text, mix=False),
        "separate": lambda: [model.predict(text) for model in merged],
    }
    seconds = interleaved(variants, rounds, warm_up=1, clock=process_time)
    found = {how: ratio(seconds, how, "separate") for how in ("mixed", "exact")}
    times = {"milliseconds": medians(seconds), "rounds": rounds}
    return [
        row(f"one text through 20 tasks of the upper third, {how}, beside 20 passes", share, "<= 0.45", share <= 0.45, **times)
        for how, share in found.items()
    ]


def switching(files: Sequence[Path], rounds: int = 40) -> list[dict[str, object]]:
    """What a request of another task costs in the exact way beside its forward, and what taking in a new delta does."""
    trunk = trunk_of(files[:2])
    seconds: list[float] = []
    for i in range(rounds):
        begin = process_time()
        with trunk._members[str(i % 2)].applied():
            pass
        seconds.append(process_time() - begin)
    switch = 1e3 * statistics.median(seconds)
    begin = process_time()
    trunk.add("1", files[1])
    adding = 1e3 * (process_time() - begin)
    return [
        row("another task's values into the base and out again, ms", switch, "<= 50", switch <= 50, rounds=rounds),
        row("a task's delta read from disk in place of another, ms, while requests go on", adding, "", True),
    ]


def check(found: Sequence[Any], expected: Sequence[Any], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.label == other.label and abs(one.probability - other.probability) <= tolerance * other.probability, (
            one,
            other,
        )


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| what | measured | reach |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['measured']} | {row['reach']} |" for row in rows]
    return "\n".join([*lines, "", "One thread of a core that others used at the same time; processor time.", ""])


if __name__ == "__main__":
    main()
