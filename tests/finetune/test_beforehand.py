"""What is refused before data are read, though it takes tasks and transformers to know it."""

import needs_datasets  # noqa: F401  # isort: split
import pytest
from command_line import run

from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.beforehand import check_beforehand, loggers
from clm_kernels.finetune.config import SCHEDULERS


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "--best-by",
            "nonsense",
            "best_by must be auto, 'accuracy', 'exact_match', 'f1', 'macro_f1' or 'micro_f1', got 'nonsense'",
        ),
        ("--report-to", "nonsense", "report_to must be none, all, or of azure_ml, "),
        ("--report-to", "none,tensorboard", "got 'none,tensorboard'"),
    ],
)
def test_nothing_is_read_before_it_is_refused(tmp_path, option, value, message):
    ended = run(
        "train", "--model", tmp_path / "none", "--train", tmp_path / "none.csv", "--output", tmp_path / "o", option, value
    )
    assert ended.exit_code == 2 and message in ended.stderr


def test_scores_are_those_of_the_task():
    for task, score in (("sequence", "macro_f1"), ("token", "f1"), ("multilabel", "exact_match"), ("auto", "micro_f1")):
        check_beforehand(TrainConfig(task=task, best_by=score))
    with pytest.raises(ValueError, match="best_by must be auto, 'accuracy' or 'macro_f1', got 'f1'"):
        check_beforehand(TrainConfig(task="sequence", best_by="f1"))


def test_a_logger_must_be_installed(monkeypatch):
    for there, told in (
        ([], "none, as no logger is installed"),
        (["mlflow"], "one that is installed, of which there are 'mlflow'"),
    ):
        monkeypatch.setattr(loggers, "get_available_reporting_integrations", lambda there=there: there)
        with pytest.raises(ValueError, match=f"^train: report_to must be {told}, got 'wandb'$"):
            check_beforehand(TrainConfig(report_to="wandb"))
    for asked in ("none", "all", "mlflow"):
        check_beforehand(TrainConfig(report_to=asked))


def test_schedules_can_be_made_without_arguments():
    import torch
    from transformers import get_scheduler

    for name in SCHEDULERS:
        get_scheduler(name, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), 1, 9)
