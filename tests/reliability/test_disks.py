"""Disks that are full or read-only: one line, and nothing half-written that claims to be whole."""

import errno
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import run as command
from forked import forked
from interruption import stop
from safetensors import SafetensorError
from tiny_runs import assert_same, silent, trained_tensors

from clm_kernels import files
from clm_kernels.finetune import TrainConfig, locks, manifest, train
from clm_kernels.finetune.checkpoints import last_checkpoint
from clm_kernels.finetune.disks import advice_when_a_disk_is_full, filling
from clm_kernels.finetune.outputs import write_folder
from clm_kernels.finetune.trainer import RunTrainer

FULL = r"^train: output must be a folder with room to write to, got .*/o' \({}\)$"


@pytest.fixture(scope="module")
def quick(base):
    return replace(base, select="random")


@pytest.fixture(scope="module")
def expected(quick, tmp_path_factory):
    """What the run leaves where there is room."""
    output = tmp_path_factory.mktemp("whole") / "o"
    train(replace(quick, output=str(output)), silent)
    return trained_tensors(output)


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITES = {  # what of the second checkpoint does not fit any more
    "weights": (RunTrainer, "save_model", full),
    "weights, as safetensors says it": (RunTrainer, "save_model", lambda *_, **__: told(SafetensorError)),
    "optimizer": (RunTrainer, "_save_optimizer_and_scheduler", full),
    "random state, as torch says it": (RunTrainer, "_save_rng_state", lambda *_: torch_says()),
    "state": (RunTrainer, "_save_scaler", full),
    "manifest": (manifest, "write_atomically", full),
    "manifest, brought to the disk": (files.os, "fsync", full),
}


def told(kind):
    raise kind("Error while serializing: I/O error: No space left on device (os error 28)")


def torch_says():
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")


TOLD = ("inline_container.cc:672] . PytorchStreamWriter failed", "unexpected pos 64 vs 0", "basic_ios::clear: iostream error")


@pytest.mark.parametrize("words", TOLD)
def test_each_way_in_which_torch_tells_of_a_full_disk(words, tmp_path):
    with (
        pytest.raises(RuntimeError, match=FULL.format("a file could not be written whole")),
        advice_when_a_disk_is_full(tmp_path / "o"),
    ):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), advice_when_a_disk_is_full(tmp_path / "o"):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("write", WRITES)
def test_a_disk_that_is_full_in_a_save(quick, expected, tmp_path, write):
    owner, name, fail = WRITES[write]
    output = tmp_path / "o"
    with pytest.MonkeyPatch.context() as context:
        save = RunTrainer._save_checkpoint

        def second(self, *args, **kwargs):
            if self.state.global_step == 12:
                context.setattr(owner, name, fail)
            return save(self, *args, **kwargs)

        context.setattr(RunTrainer, "_save_checkpoint", second)
        words = "a file could not be written whole" if "torch" in write else "No space left on device"
        with pytest.raises(RuntimeError, match=FULL.format(words)):
            train(replace(quick, output=str(output)), silent)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["checkpoint-6"]
    train(TrainConfig(output=str(output), resume=True), silent)
    assert_same(trained_tensors(output), expected)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_is_full_for_the_result(quick, tmp_path, monkeypatch, number):
    """The checkpoints stay, of which the run can be finished."""
    output = tmp_path / "o"

    def moved(self, target):
        raise OSError(number, os.strerror(number))

    replaced = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: moved(a, b) if os.path.basename(b) == "delta.safetensors" else replaced(a, b))
    with pytest.raises(RuntimeError, match=FULL.format(os.strerror(number))):
        train(replace(quick, output=str(output)), silent)
    assert not (output / "delta.safetensors").exists() and not (output / "report.json").exists()
    assert last_checkpoint(output / "checkpoints").name == "checkpoint-18" and not list(output.glob(".*"))


@pytest.mark.parametrize("name", ["run.json", locks.OWNER, "selection.safetensors"])
def test_a_disk_that_is_full_at_once(quick, tmp_path, monkeypatch, name):
    replaced = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: full() if os.path.basename(b) == name else replaced(a, b))
    with pytest.raises((ValueError, RuntimeError), match="No space left on device"):
        train(replace(quick, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists()


def test_files_that_cannot_grow(quick, expected, tmp_path):
    """The operating system's own limit, at several sizes: the run ends in our line or well, and what it leaves is usable."""
    resource = pytest.importorskip("resource")
    for size in (1_000, 20_000, 40_000, 80_000, 1_000_000):
        output = tmp_path / str(size)

        def limited(output=output, size=size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            with pytest.raises(
                (ValueError, RuntimeError), match=r"(output|TMPDIR) must be .* \((File too large|a file could not be)"
            ):
                train(replace(quick, output=str(output)), silent)

        code = forked(limited)
        assert code == (1 if size == 1_000_000 else 0)  # 1: nothing was raised
        if size == 1_000_000:
            assert_same(trained_tensors(output), expected)
        else:
            assert not output.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs a user's rights")
def test_a_folder_that_cannot_be_written_to(quick, tmp_path):
    """As root nobody is kept out: a process of its own becomes somebody else."""
    for path in (tmp_path, *tmp_path.parents):
        with suppress(OSError):
            path.chmod(path.stat().st_mode | 0o555)
    stop(replace(quick, output=str(tmp_path / "o")), 8)
    before = sorted(path.name for path in (tmp_path / "o").rglob("*"))

    def refused(output, **options):
        os.geteuid() or os.setuid(65534)
        with pytest.raises(ValueError, match=r"output must be a folder that can be written to, got .* \(Permission denied\)"):
            train(TrainConfig(**options, output=str(output)), silent)

    given = {"model": quick.data.model, "train": quick.data.train}
    tmp_path.chmod(0o555)
    (tmp_path / "o").chmod(0o555)
    assert forked(lambda: refused(tmp_path / "new" / "o", **given)) == 0
    assert forked(lambda: refused(tmp_path / "o", **given, overwrite=True)) == 0
    assert forked(lambda: refused(tmp_path / "o", resume=True)) == 0
    assert sorted(path.name for path in (tmp_path / "o").rglob("*")) == before
    tmp_path.chmod(0o755)
    (tmp_path / "o").chmod(0o755)


def test_moving_over_leaves_no_half_of_a_folder(tmp_path):
    """A folder whose filling fails leaves nothing; nor does what stood there before change."""

    def fill(beside):
        (beside / "a").write_text("new")
        full()

    write_folder(tmp_path, lambda beside: (beside / "a").write_text("old"))
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path, fill)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_the_file_that_does_not_fit_is_named(quick, tmp_path, monkeypatch):
    """What is kept for replay, and temporary files, may lie on other disks than the output."""
    room, opened = tmp_path / "room", Path.open

    def on_a_full_disk(path, mode="r", **given):
        return opened(Path("/dev/full") if mode == "wb" and path.parent == room else path, mode, **given)

    monkeypatch.setattr(Path, "open", on_a_full_disk)
    room.mkdir()
    config = replace(quick, layers="upper half", replay=True, replay_file=str(room / "kept"), output=str(tmp_path / "o"))
    with pytest.raises(
        RuntimeError, match=r"^train: '.*/room/kept' must be a file on a disk with room .* \(No space left on device\)$"
    ):
        train(config, silent)
    assert not (tmp_path / "o").exists()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    monkeypatch.setattr(pa.ipc, "new_stream", full)
    with pytest.raises(
        RuntimeError, match=r"^train: TMPDIR must be a folder with room for temporary files, got '.*/room' \(No space left"
    ):
        train(replace(quick, output=str(tmp_path / "o")), silent)
    assert not (tmp_path / "o").exists() and not any(room.iterdir())


SHIPPED = {
    "export": (["export", "--model"], [], "clm_kernels.finetune.shipping.checkpoint.save_portable"),
    "its card": (["export", "--model"], [], "clm_kernels.finetune.shipping.card._limits"),
    "evaluate": (["evaluate"], ["--draws", "2"], "clm_kernels.finetune.judging.writing._table"),
}


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
@pytest.mark.parametrize("what", SHIPPED)
def test_a_disk_that_is_full_for_what_is_made_of_a_run(base, finished, tmp_path, monkeypatch, what, kind):
    before, after, place = SHIPPED[what]
    data = [] if before[0] == "export" else [base.data.test]
    given = [*before, finished[0].run.output, *data, *after, "--output"]
    monkeypatch.setattr(place, full if kind is OSError else lambda *_, **__: told(kind))
    for output in (tmp_path / "new" / "o", tmp_path):
        result = command(*given, output)
        line = f"error: {before[0]}: output must be a folder with room to write to, got '{output}' (No space left on device)"
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, line)
        assert tmp_path.exists() and not any(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["export", "evaluate"])
def test_an_output_that_can_be_no_folder(base, finished, tmp_path, what):
    (tmp_path / "file").write_text("mine")
    given = (
        ["export", "--model", finished[0].run.output]
        if what == "export"
        else ["evaluate", finished[0].run.output, base.data.test]
    )
    for below in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        result = command(*given, "--output", below)
        line = result.stderr.splitlines()[-1]
        assert (result.exit_code, line.startswith(f"error: {what}: output must be a folder, got ")) == (2, True), line
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_what_stood_in_a_folder_stays_when_filling_fails(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RuntimeError, match=r"^f: output must be"), filling(tmp_path, "f"):
        full()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_after_a_refusal_what_others_have_put_into_a_new_folder_stays(tmp_path):
    """As of two exports into one folder, the second of which is refused when the first is there."""
    with pytest.raises(ValueError, match=r"^it is there"), filling(tmp_path / "new", "f"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").write_text("x")
        raise ValueError("it is there")
    assert (tmp_path / "new" / "theirs").read_text() == "x"
