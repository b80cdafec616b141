"""Two runs that write to one folder: the second is told who the first is."""

import json
import os
import re
import shutil
import socket
import time
from dataclasses import replace

import pytest
from forked import forked, kill_myself, start
from interruption import stop
from tiny_runs import assert_same, silent, trained_tensors

from clm_kernels.finetune import TrainConfig, train
from clm_kernels.finetune.locks import LOCK, OWNER, locked
from clm_kernels.finetune.trainer import RunTrainer


@pytest.fixture(scope="module")
def quick(base):
    return replace(base, select="random")


def test_the_second_is_refused_by_name(tmp_path):
    folder = tmp_path / "o"
    held = re.escape(f"{str(folder)!r}, held by process {os.getpid()} on {socket.gethostname()} since 20")
    with locked(folder):
        with (
            pytest.raises(ValueError, match="train: output must be a folder that no other run is writing to, got " + held),
            locked(folder),
        ):
            pass
        assert {path.name for path in folder.iterdir()} == {LOCK, OWNER}
    assert not folder.exists()


def test_under_another_name_it_is_the_same_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "o")
    with locked(tmp_path / "o"), pytest.raises(ValueError, match="held by process"), locked(tmp_path / "link"):
        pass


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_nothing_is_done_to_a_folder_while_another_process_trains_there(quick, tmp_path, options):
    """Also not by those that would replace the run, or go on with it."""
    config = replace(quick, output=str(tmp_path / "o"))
    first = start(waiting_run, config, tmp_path / "go")
    try:
        while not (tmp_path / "o" / "checkpoints" / "checkpoint-12").exists():
            time.sleep(0.02)
        given = TrainConfig(output=str(tmp_path / "o"), resume=True) if "resume" in options else replace(config, **options)
        with pytest.raises(ValueError, match=f"held by process {first} on"):
            train(given, silent)
    finally:
        (tmp_path / "go").touch()
        assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0
    train(replace(quick, output=str(tmp_path / "alone")), silent)
    assert_same(trained_tensors(tmp_path / "o"), trained_tensors(tmp_path / "alone"))
    assert json.loads((tmp_path / "o" / "run.json").read_text())["config"]["output"] == str(tmp_path / "o")
    assert not list((tmp_path / "o").glob(".*"))


def waiting_run(config, go):
    """Waits in step 14 until it may go on."""
    step = RunTrainer.training_step

    def training_step(self, *args, **kwargs):
        while self.state.global_step == 13 and not go.exists():
            time.sleep(0.02)
        return step(self, *args, **kwargs)

    RunTrainer.training_step = training_step
    train(config, silent)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    def killed():
        with locked(tmp_path / "o"):
            kill_myself()

    assert forked(killed) == -9
    assert {path.name for path in (tmp_path / "o").iterdir()} == {LOCK, OWNER}
    with locked(tmp_path / "o"):
        assert json.loads((tmp_path / "o" / OWNER).read_text())["pid"] == os.getpid()
    assert not any((tmp_path / "o").iterdir())


def test_an_unsigned_lock_is_a_lock(tmp_path):
    with locked(tmp_path / "o"):
        for content in ("", "[]", '{"pid": 1}'):
            (tmp_path / "o" / OWNER).write_text(content)
            with pytest.raises(ValueError, match="held by another process"), locked(tmp_path / "o"):
                pass


def test_the_lock_goes_however_a_run_ends(quick, tmp_path, monkeypatch):
    config = replace(quick, output=str(tmp_path / "o"))
    stop(config, 8)
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"run.json", "run.yaml", "selection.safetensors", "checkpoints"}
    with pytest.raises(ValueError, match="as in the run to resume"):
        train(replace(config, resume=True, seed=1), silent)
    assert not list((tmp_path / "o").glob(".*"))
    shutil.rmtree(tmp_path / "o")
    with pytest.raises(ValueError, match="read_rows"):
        train(replace(config, train=str(tmp_path / "none.jsonl"), output=str(tmp_path / "deep" / "o")), silent)
    assert not list(tmp_path.iterdir())  # nor do folders stay that were made for it
