"""What a measurement belongs to: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from ..._version import __version__

PACKAGES = ("torch", "triton", "transformers", "peft", "numpy")
SPARE = 0.5  # cores' worth of load that a command's own start explains
ROOT = Path(__file__).parent.parent.parent


def provenance(device: torch.device | str = "cpu") -> dict[str, object]:
    """Device, processor, threads, versions of what is installed, and the checkout's commit, if it is one."""
    gpu = torch.device(device).type == "cuda"
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {
        "device": torch.device(device).type,
        "name": torch.cuda.get_device_name(device) if gpu else _processor(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))}
        | ({"cuda": torch.version.cuda} if gpu else {}),
        "commit": (_git("describe", "--always") or f"version {__version__}") + ("-dirty" if changed else ""),
    }


def busy(device: torch.device | str = "cpu") -> str:
    """What else takes the processors now, in words; empty if the threads that torch uses here are free, or nobody can tell."""
    if not hasattr(os, "getloadavg") or torch.device(device).type != "cpu":
        return ""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    free = load + torch.get_num_threads() <= cores + SPARE
    return "" if free else f"{load:.1f} of {cores} cores were taken in the last minute, and {torch.get_num_threads()} are needed"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
