"""A function in a process of its own that has all imported already, and may be killed."""

import os
import signal
import sys
import traceback

import pytest


def forked(function, *arguments):
    """Runs it to its end; the exit code, or minus the signal's number. An exception is code 1, and printed."""
    child = start(function, *arguments)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(function, *arguments):
    """Begins it; the id of its process."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    child = os.fork()
    if child:
        return child
    try:
        function(*arguments)
    except BaseException as error:
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(128 + getattr(error, "number", 0) if isinstance(error, KeyboardInterrupt) else 1)
    os._exit(0)


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)
