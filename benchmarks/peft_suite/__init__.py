"""PEFT's own tuner tests, run against the adapter type of `clm_kernels.peft`: see `__main__`."""
