"""Triton's interpreter at half the time: it puts its own functions into `triton.language` once a launch, not once a call within."""

import sys

import pytest


class _Nothing:
    def restore(self) -> None:
        pass


def _once(put):
    """As `interpreter._patch_lang`, but for what stands there already: `tl.sum` and all other functions of a kernel call it anew."""
    import triton.language as tl

    def put_once(fn):
        known = [each for each in fn.__globals__.values() if each is tl or each is tl.core]
        if known and not any(tl.core.is_builtin(each.load) for each in known):
            return _Nothing()
        return put(fn)

    put_once.quick = True
    return put_once


@pytest.fixture(autouse=True)
def _quick_interpreter() -> None:
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter and not hasattr(interpreter._patch_lang, "quick"):
        interpreter._patch_lang = _once(interpreter._patch_lang)
