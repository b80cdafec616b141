"""Seconds of a step, found from three that were timed."""

import pytest

from clm_kernels.finetune.pricing.stopwatch import Timed, speed_of


def timed(tokens, share):
    return Timed(0.5 + 0.01 * tokens + 0.02 * tokens * share, tokens, share)


def test_a_step_is_taken_apart():
    speed = speed_of(timed(100, 0.95), timed(60, 0.95), timed(100, 0.2), 0.3)
    assert speed == pytest.approx((0.5, 0.01, 0.02, 0.003))


def test_where_no_token_is_left_out_all_are_of_one_kind():
    speed = speed_of(timed(100, 1.0), timed(60, 1.0), None, 0.3)
    assert speed[:2] == pytest.approx((0.5, 0.03)) and speed.active is None


@pytest.mark.parametrize("half", [Timed(1.5, 60, 1.0), Timed(0.1, 60, 1.0), Timed(1.0, 100, 1.0)])
def test_noise_makes_nothing_negative_and_the_step_stays_what_it_was(half):
    speed = speed_of(Timed(1.0, 100, 1.0), half, Timed(1.2, 100, 0.3), 0.1)
    assert min(speed) >= 0 and speed.active == 0
    assert speed.batch + 100 * speed.token == pytest.approx(1.0)
