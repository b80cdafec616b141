"""What CLAIM.md states in advance can be run, and its differences are computed."""

import re

from places import ROOT

from benchmarks.tasks.methods import CLAIMED, CONTRASTS, METHODS

CLAIM = (ROOT / "benchmarks" / "tasks" / "CLAIM.md").read_text(encoding="utf-8")


def test_every_method_that_a_claim_is_about_is_run_and_compared():
    (listed,) = re.findall(r"--methods (\S+)", CLAIM)
    ours = {"full", "groups", "cost_40"}
    assert set(listed.split(",")) == ours | set(CLAIMED) <= set(METHODS)
    assert {("groups", other) for other in ("full", *CLAIMED)} | {("cost_40", "full"), ("cost_40", "lora_32")} <= set(CONTRASTS)
