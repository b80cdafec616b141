"""Options that cannot be right: a box for people, one line for programs, and of several processes one that says it."""

import os
import signal
import threading

import pytest
from command_line import run

from clm_kernels.cli import errors


def test_programs_get_one_line():
    boxed = run("train", "--epoch", "1")
    assert boxed.exit_code == 2 and "╭" in boxed.stderr
    for option in ("--json", "--quiet"):
        told = run("train", "--epoch", "1", option)
        assert told.exit_code == 2 and told.stdout == ""
        assert told.stderr.startswith("error: No such option: --epoch") and told.stderr.count("\n") == 1


def test_the_first_process_says_it_and_the_others_wait_to_be_ended(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ending = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    ending.start()
    told = run("train", "--epoch", "1")
    assert (told.exit_code, told.stderr) == (2, "")


@pytest.mark.parametrize("arguments", [("train", "--epoch", "1"), ("check", "nothing.csv")])
def test_who_is_left_alone_says_it(monkeypatch, arguments):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(errors, "PATIENCE", 0.1)
    before, told = signal.getsignal(signal.SIGTERM), run(*arguments)
    assert told.exit_code == 2 and told.stderr.startswith("error: ")
    assert signal.getsignal(signal.SIGTERM) is before
