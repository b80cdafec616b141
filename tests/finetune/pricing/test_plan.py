"""What fits into a time: shares first, then epochs, and what is too little."""

import pytest

from clm_kernels.finetune.pricing.plan import KEPT, LOWEST, Load, Speed, plan_within

LOAD = Load(batches=10, tokens=1000, validation=100, every=1.0, end=200)
SPEED = Speed(batch=1.0, token=0.01, active=0.02, read=0.005)
WHOLE = 4 * (10 + 10 + 20) + 4 * 0.5 + 1  # seconds of four epochs, their validations and the end


def minutes(seconds, before=7.0):
    return (seconds + before) / 60 / (1 - KEPT)


def planned(seconds, epochs=4, speed=SPEED, load=LOAD):
    return plan_within(minutes(seconds), 7.0, epochs, speed, load)


def test_what_fits_whole_is_whole():
    plan = planned(WHOLE + 0.01)
    assert (plan.epochs, plan.share) == (4, None)
    assert (plan.training, plan.judging) == (pytest.approx(160), pytest.approx(3))


def test_the_share_takes_what_is_left():
    plan = planned(100.0)
    assert plan.epochs == 4 and LOWEST < plan.share < 1
    by_hand = 40 + 1000 * (1 + 3 * plan.share) * (0.01 + 0.02 * plan.share)
    assert plan.training == pytest.approx(by_hand) and plan.training + plan.judging == pytest.approx(100, abs=1e-3)


def test_below_the_lowest_share_epochs_go():
    least = 40 + 1000 * (1 + 3 * LOWEST) * (0.01 + 0.02 * LOWEST) + 3
    assert planned(least + 0.01).epochs == 4
    plan = planned(least - 0.01)
    assert plan.epochs == 3.9 and LOWEST <= plan.share < 1
    assert plan.training + plan.judging <= least


@pytest.mark.parametrize("seconds", [15, 30, 60, 90, 150])
@pytest.mark.parametrize("active", [None, 0.0, 0.02])
def test_no_plan_takes_longer_and_none_leaves_a_tenth_of_an_epoch(seconds, active):
    speed = SPEED._replace(active=active)
    plan = planned(seconds, speed=speed)
    assert plan.training + plan.judging <= seconds + 1e-6
    unspent = seconds - plan.training - plan.judging
    assert plan.epochs == 4 or unspent < 5  # a tenth of an epoch, and a validation more
    assert active is not None or plan.share is None


def test_validations_by_steps_count():
    assert planned(1000, load=LOAD._replace(every=0.25)).judging == pytest.approx((16 * 100 + 200) * 0.005)


def test_too_little_says_the_least():
    least = 0.1 * 10 + 100 * (0.01 + 0.02 * LOWEST) + (100 + 200) * 0.005
    assert planned(least + 1e-6).epochs == 0.1
    with pytest.raises(ValueError, match=r"train: minutes must be at least 0\.\d+, what 0\.1 epochs take here, got 0\.\d+"):
        planned(least - 0.01)
    with pytest.raises(ValueError, match=r"what 0\.05 epochs take here"):
        planned(0.0, epochs=0.05)
