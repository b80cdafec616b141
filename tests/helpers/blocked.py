"""Python in a process of its own, in which some packages cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable


def python(script: str, blocked: Iterable[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script; no implementation of the ops is asked for by name unless `environment` does."""
    environment = {name: value for name, value in os.environ.items() if name != "CLM_KERNELS_BACKEND"} | environment
    block = f"import sys\nsys.modules.update(dict.fromkeys({list(blocked)!r}))\n"
    return subprocess.run([sys.executable, "-c", block + script], capture_output=True, text=True, env=environment, timeout=120)
