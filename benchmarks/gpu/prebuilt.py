"""A CUDA module that was built on another machine: ``python -m benchmarks.gpu.prebuilt record|install``.

`benchmarks/prebuild_gpu.sh` makes it, for one version of Python; `machine` puts it into the package where it fits.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "gpu"
NAME = f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
LOAD = """
import importlib.util as util, sys
spec = util.spec_from_file_location("_cuda", sys.argv[1])
spec.loader.exec_module(util.module_from_spec(spec))
"""


def sources() -> str:
    """A digest of all that the module is made from."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cuda/*"), ROOT / "setup.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def why_it_does_not_load(module: Path) -> str | None:
    """What a Python of its own says, as a module for another machine may end it."""
    run = subprocess.run([sys.executable, "-c", LOAD, str(module)], capture_output=True, text=True)
    return f"exit {run.returncode}: {run.stderr.strip()[-500:]}" if run.returncode else None


def install(folder: Path = FOLDER, package: Path = ROOT / "clm_kernels") -> str | None:
    """Copies the module into the package; returns why not, or None."""
    module, made_from = folder / "lib" / "clm_kernels" / NAME, folder / "sources.sha256"
    if not module.is_file() or not made_from.is_file():
        return f"there is no {module}: benchmarks/prebuild_gpu.sh makes it"
    if made_from.read_text() != sources():
        return f"{module} was made from other sources: run benchmarks/prebuild_gpu.sh again"
    if reason := why_it_does_not_load(module):
        return f"{module} does not load: {reason}"
    shutil.copy2(module, package / NAME)
    return None


def main(what: str) -> str | None:
    if what == "record":
        (FOLDER / "sources.sha256").write_text(sources())
        return why_it_does_not_load(FOLDER / "lib" / "clm_kernels" / NAME)
    return install()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
