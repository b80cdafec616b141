"""The calls for a GPU: every part ends, what it wrote comes home, and a number has a row in the table of targets."""

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from places import ROOT

import benchmarks.gpu.sanitize
from benchmarks.gpu import adamw, calls, launch, llama, prebuilt, products, reach, step, tokens
from benchmarks.gpu.archive import pack
from benchmarks.gpu.calls import CALLS, Call, Part
from benchmarks.gpu.scale import Scale
from clm_kernels import Entries

SCRIPTS = {
    "machine": "write('machine.json', '{\"gpu\": \"none such\"}')",
    "right": "print('fine')",
    "wrong": "print('why'); raise SystemExit(3)",
    "skip": "raise SystemExit(77)",
    "hangs": "import subprocess; child = subprocess.Popen(['sleep', '60']); write('hangs.json', str(child.pid)); "
    "print('here', flush=True); time.sleep(60)",
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Modules that stand for parts, a folder to work in, and one for what comes home."""
    for name, script in SCRIPTS.items():
        write = "def write(name, text): open(sys.argv[2] + '/' + name, 'w').write(text)"
        (tmp_path / f"part_{name}.py").write_text(f"import sys, time\n{write}\n{script}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    (tmp_path / "work").mkdir()
    return tmp_path / "work", tmp_path / "out"


def parts(**seconds):
    return tuple(Part(name, (f"part_{name}",), limit) for name, limit in seconds.items())


def test_every_part_is_named_with_its_outcome(folders):
    said = []
    summary = calls.run("contact", Call(90, parts(machine=20, right=20, wrong=20, skip=20)), *folders, said.append)
    assert {name: how["outcome"] for name, how in summary["parts"].items()} == {
        "machine": "done", "right": "done", "wrong": "failed", "skip": "skipped",
    }  # fmt: skip
    assert summary["parts"]["wrong"]["exit"] == 3 and summary["gpu"] == "none such"
    assert any("why" in line for line in said)
    assert sorted(path.name for path in folders[1].iterdir()) == ["contact.json", "contact.tar.gz"]
    assert json.loads((folders[1] / "contact.json").read_text()) == summary


def test_a_part_that_hangs_is_cut_off_with_all_that_it_started(folders, monkeypatch):
    monkeypatch.setattr(calls, "LOOK", 0.2)
    begin = time.monotonic()
    summary = calls.run("numbers", Call(90, parts(hangs=3, right=20)), *folders, lambda line: None)
    assert time.monotonic() - begin < 30
    assert summary["parts"]["hangs"]["outcome"] == "cut off after 3 s" and summary["parts"]["right"]["outcome"] == "done"
    with tarfile.open(folders[1] / "numbers.tar.gz") as archive:
        assert {"hangs.json", "hangs.log", "right.log"} <= set(archive.getnames())
        log = archive.extractfile("hangs.log").read().decode()
    assert "here" in log and "most recent call first" in log  # where it was
    child = Path("/proc", (folders[0] / "hangs.json").read_text())
    assert not child.exists() or "(zombie)" in (child / "status").read_text()


def test_a_call_ends_within_its_limit(folders, monkeypatch):
    monkeypatch.setattr(calls, "LOOK", 1.0)
    begin = time.monotonic()
    summary = calls.run("training", Call(5, parts(hangs=60, right=60)), *folders, lambda line: None)
    assert time.monotonic() - begin < 5 + 2
    assert [how["outcome"][:9] for how in summary["parts"].values()] == ["cut off a", "not begun"]


def test_what_a_running_part_has_written_is_home_already(folders, monkeypatch):
    """Were the whole call ended from outside, there would be an archive."""
    monkeypatch.setattr(calls, "LOOK", 0.2)
    seen = []
    monkeypatch.setattr(calls, "stop", lambda process: (seen.append(names(folders[1] / "numbers.tar.gz")), process.kill()))
    calls.run("numbers", Call(90, parts(hangs=3)), *folders, lambda line: None)
    assert "hangs.json" in seen[0]


def names(archive):
    with tarfile.open(archive) as opened:
        return opened.getnames()


def test_the_calls_fit_their_limits_and_the_parts_exist():
    assert {name: call.seconds for name, call in CALLS.items()} == {"contact": 300, "numbers": 170, "training": 150}
    for call in CALLS.values():
        for part in call.parts:
            assert part.module[0] == "pytest" or (ROOT / f"{part.module[0].replace('.', '/')}.py").is_file()
            assert all((ROOT / argument).is_file() for argument in part.module if argument.startswith("tests/"))


def test_an_archive_has_a_size_that_travels(tmp_path):
    noise = torch.randint(0, 256, (3 << 20,), dtype=torch.uint8).numpy().tobytes()
    for name, size in (("b.json", 10), ("a.log", 3 << 20), ("large.json", 3 << 20), ("trace", 900_000)):
        (tmp_path / name).write_bytes(noise[:size])
    (tmp_path / "a.log").write_bytes(b"begin" + noise + b"end")
    left_out = pack(tmp_path, tmp_path.parent / "x.tar.gz", limit=3 << 20)
    assert left_out == ["large.json"] and (tmp_path.parent / "x.tar.gz").stat().st_size <= 3 << 20
    with tarfile.open(tmp_path.parent / "x.tar.gz") as archive:
        assert archive.getnames() == ["b.json", "trace", "a.log"]
        log = archive.extractfile("a.log").read()
    assert log.startswith(b"begin") and log.endswith(b"end") and b"bytes left out" in log


def test_run_gpu_names_the_calls():
    run = subprocess.run(["bash", "benchmarks/run_gpu.sh", "all"], cwd=ROOT, env=_environment(), capture_output=True, text=True)
    assert run.returncode == 2 and "the call must be one of contact, numbers, training, got all" in run.stderr


def _environment():
    return os.environ | {"PYTHON": sys.executable}


def test_a_prebuilt_module_is_used_where_it_fits(tmp_path, monkeypatch):
    package, module = tmp_path / "package", tmp_path / "lib" / "clm_kernels" / prebuilt.NAME
    package.mkdir()
    assert "there is no" in prebuilt.install(tmp_path, package)
    module.parent.mkdir(parents=True)
    module.write_bytes(b"not a module")
    (tmp_path / "sources.sha256").write_text("of others")
    assert "from other sources" in prebuilt.install(tmp_path, package)
    (tmp_path / "sources.sha256").write_text(prebuilt.sources())
    assert "does not load" in prebuilt.install(tmp_path, package) and not list(package.iterdir())
    monkeypatch.setattr(prebuilt, "LOAD", "")
    assert prebuilt.install(tmp_path, package) is None and (package / prebuilt.NAME).read_bytes() == b"not a module"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_outcomes_say_what_failed(tmp_path, workers):
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 1 == 2\n@pytest.mark.skip\ndef test_c(): pass\n"
        "@pytest.fixture\ndef broken(): raise OSError\ndef test_d(broken): pass\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "benchmarks.gpu.outcomes",
        "--outcomes",
        tmp_path / "ops.json",
        "-n",
        workers,
    ]
    environment = _environment() | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, tmp_path], cwd=tmp_path, env=environment, capture_output=True)
    stored = json.loads((tmp_path / "ops.json").read_text())
    (row,) = stored["rows"]
    assert row["what"] == "GPU tests of every op: not passed" and row["measured"] == 2 and not row["met"]
    assert [stored[name] for name in ("collected", "passed", "skipped", "failed", "running")] == [4, 1, 1, 2, []]
    assert sorted(stored["failures"]) == ["test_it.py::test_b (call)", "test_it.py::test_d (setup)"]
    assert "assert 1 == 2" in stored["failures"]["test_it.py::test_b (call)"]
    subprocess.run([*command, tmp_path, "-k", "test_c"], cwd=tmp_path, env=environment, capture_output=True)
    assert json.loads((tmp_path / "ops.json").read_text())["rows"] == []  # where all skip nothing is known


PARTS = {
    adamw: reach.ADAMW, launch: reach.LAUNCH, products: reach.PRODUCTS, step: reach.CAPTURED, tokens: reach.ACTIVE, llama: reach.SEVEN_B,
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_number_has_its_target(part):
    assert sorted(row["what"] for row in part.rows(Scale.of(on_gpu=False))) == sorted(PARTS[part])


@pytest.mark.parametrize(
    ("entries", "sectors"),
    [
        (Entries.of("rows", [0, 2], (4, 32)), 2 * 2),  # 64 bytes a row, whole
        (Entries.of("columns", [1], (4, 32)), 4 * 2),  # a part of a sector in each row, read before it is written
        (Entries.of("columns", range(16), (4, 32)), 4),
        (Entries.of("blocks", [0], (32, 32), (16, 16)), 16),
        (Entries.of("blocks", [0, 1], (8, 16), (8, 8)), 8),  # two halves side by side
        (Entries.of("blocks", [0], (8, 16), (8, 8)), 8 * 2),
        (Entries.of("elements", [0, 1, 40], (4, 32)), 2 * 2),
    ],
)
def test_bytes_of_whole_sectors(entries, sectors):
    assert adamw.dense_bytes(entries, 2) == 32 * sectors


def test_the_sanitizer_is_skipped_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmarks.gpu.sanitize.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["sanitize", "--output", str(tmp_path)])
    assert benchmarks.gpu.sanitize.main() == calls.SKIPPED and not list(tmp_path.iterdir())
