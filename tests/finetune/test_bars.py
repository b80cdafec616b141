"""Progress bars leave nothing behind."""

from types import SimpleNamespace

import needs_datasets  # noqa: F401
import pytest

from clm_kernels.finetune.trainer import Bar

STATE = SimpleNamespace(is_world_process_zero=True, max_steps=2, global_step=2)


def last_line(err):
    return err.rsplit("\r", 1)[-1].strip()


@pytest.mark.parametrize("training", [True, False])
def test_no_bar_stays(capsys, training):
    bar = Bar()
    if training:
        bar.on_train_begin(None, STATE, None)
        bar.on_step_end(None, STATE, None)
        bar.on_train_end(None, STATE, None)
    else:  # as of test data, when training is over
        bar.on_prediction_step(None, STATE, None, eval_dataloader=[1])
        bar.on_predict(None, STATE, None)
    err = capsys.readouterr().err
    assert "%|" in err and "%|" not in last_line(err)
