"""The program ``clm-kernels``; ``python -m clm_kernels`` is the same."""

from __future__ import annotations

import sys

from .extras import NotInstalled, needs


def main() -> None:
    """Runs the command line, or says in one line what it needs."""
    try:
        for package in ("typer", "rich"):
            needs(package, "clm-kernels")
    except NotInstalled as error:
        sys.exit(str(error))
    from .cli import main

    main()


if __name__ == "__main__":
    main()
