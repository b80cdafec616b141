"""A function in a process of its own that has all imported already, and may be killed."""

import os
import signal
import sys
import time
import traceback

import pytest

HUNG = 999  # the exit code of a process that did not end by itself


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


def ended(children, seconds, held=0):
    """Exit codes (minus a signal's number); `HUNG` of one that is killed, as it is still there after so many seconds.

    Args:
        held: how many are stopped, and killed as soon as all others have ended.
    """
    codes, deadline = {}, time.monotonic() + seconds
    while len(codes) + held < len(children) and time.monotonic() < deadline:
        for child in set(children) - codes.keys():
            gone, status = os.waitpid(child, os.WNOHANG)
            if gone:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for child in set(children) - codes.keys():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [codes.get(child, HUNG) for child in children]


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)
