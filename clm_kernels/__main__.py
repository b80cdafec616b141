"""``python -m clm_kernels`` is ``clm-kernels``."""

from .cli import main

if __name__ == "__main__":
    main()
