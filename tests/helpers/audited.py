"""``python audited.py CASES RESULT``: runs commands with an audit hook, which nothing in the process can take out again.

CASES is JSON: ``{"allowed": [folders], "hostile": folder, "names": [modules], "cases": [{"name", "cwd", "arguments"}]}``. RESULT gets
for every case its exit code, what it wrote, and what it did that no case may do.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

ASKS_THE_MACHINE = ("uname", ["uname", "-p"])  # Python's own `platform`
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "pty.spawn")
SOCKETS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
CHANGES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2, "os.chmod": 1, "os.chown": 1,
           "os.truncate": 1, "shutil.rmtree": 1, "shutil.move": 2, "os.utime": 1}  # fmt: skip


class Watch:
    """What a case did; a hook for `sys.addaudithook`."""

    def __init__(self, allowed, hostile, names):
        self.allowed, self.hostile, self.names = tuple(allowed), hostile, set(names)
        self.on, self.seen = False, []

    def __call__(self, event, arguments):
        if not self.on:
            return
        self.on = False  # what it does itself is not looked at
        try:
            if said := self._judged(event, arguments):
                self.seen.append(f"{event}: {said}"[:300])
        finally:
            self.on = True

    def _judged(self, event, arguments):
        if arguments[:2] == ASKS_THE_MACHINE:
            return ""
        if event in PROCESSES or event in SOCKETS or event in ("builtins.input", "pickle.find_class", "ctypes.dlopen"):
            return repr(arguments)
        if event == "exec":
            file = getattr(arguments[0], "co_filename", "")
            return file if self._hostile(file) else ""
        if event == "compile":
            return arguments[1] if self._hostile(arguments[1]) else ""
        if event == "import":
            named = arguments[0].partition(".")[0] in self.names and arguments[1] and self._hostile(arguments[1])
            return arguments[0] if named or self._hostile(arguments[1]) else ""
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) if isinstance(flags, int) else bool(set(mode or "") & set("wax+"))
            return repr(path) if writes and not isinstance(path, int) and not self._may_write(path) else ""
        if event in CHANGES:
            paths = [path for path in arguments[: CHANGES[event]] if isinstance(path, (str, bytes, os.PathLike))]
            beside = next((number for number in arguments[CHANGES[event] :] if isinstance(number, int) and number > 2), None)
            folder = os.readlink(f"/proc/self/fd/{beside}") if beside and event in ("os.remove", "os.rmdir") else ""
            return next((repr(path) for path in paths if not self._may_write(os.path.join(folder, os.fsdecode(path)))), "")
        return ""

    def _hostile(self, file):
        if not isinstance(file, str) or file.startswith("<"):
            return False
        return "transformers_modules" in file or os.path.abspath(file).startswith(self.hostile)

    def _may_write(self, path):
        real = os.path.abspath(os.fsdecode(path))
        parent = os.path.join(os.path.realpath(os.path.dirname(real)), os.path.basename(real))
        return real == os.devnull or parent.startswith(self.allowed)


def main(cases, result):
    told = json.loads(Path(cases).read_text())
    watch = Watch(told["allowed"], told["hostile"], told["names"])
    sys.addaudithook(watch)
    from clm_kernels.cli import app
    from clm_kernels.finetune import Classifier

    outcomes = {}
    for case in told["cases"]:
        os.chdir(case["cwd"])
        out, err, code = io.StringIO(), io.StringIO(), 0
        watch.seen = []
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            watch.on = True
            try:
                if case["arguments"][0] == "load":
                    Classifier.load(*case["arguments"][1:])
                else:
                    code = app(case["arguments"], standalone_mode=False) or 0
            except SystemExit as stopped:
                code = stopped.code
            except BaseException as error:
                code = getattr(error, "exit_code", None)
                if code is None:
                    code = type(error).__name__
                    print(error, file=err)
            watch.on = False
        outcomes[case["name"]] = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seen": watch.seen}
        Path(result).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
