"""What `estimate` and `profile` make ready is what `train` would: the same defaults, the same methods, the same types."""

import copy
import inspect
import sys
from dataclasses import replace

import pytest
import torch
import typer
from models import build
from tiny_task import save_model, write_data
from typer.testing import CliRunner

from clm_kernels.cli import app
from clm_kernels.cli.estimate import PREPARING
from clm_kernels.defaults import LENGTH
from clm_kernels.finetune import TrainConfig
from clm_kernels.finetune.methods import METHODS
from clm_kernels.finetune.models import load_base
from clm_kernels.finetune.tasks import TASKS
from clm_kernels.measure import estimate, subject
from clm_kernels.measure.profiling import steps
from clm_kernels.models.folders import read_config
from clm_kernels.selection import Selection

BERT = build().config


def resolved(config, model=BERT):
    return subject.resolved(config, model, 8, "here")


@pytest.fixture
def stored(tmp_path):
    """What saves a config whose weights are of a dtype, and says where."""

    def save(dtype):
        described = copy.deepcopy(BERT)
        described.dtype = dtype
        described.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


@pytest.fixture
def measured(monkeypatch):
    """The configs that `profile` would measure, full and another; it ends there."""
    configs = []

    def measure(config, *args, **kwargs):
        configs.append(config)
        if len(configs) == 2:
            raise ValueError("measured enough")

    monkeypatch.setattr(steps, "measure", measure)
    return configs


@pytest.mark.parametrize("command", ["estimate", "profile", "train"])
def test_commands_have_the_defaults_of_the_fields(command):
    default = TrainConfig().options()
    options = {option.name: option for option in typer.main.get_command(app).commands[command].params}
    assert set(PREPARING) <= options.keys()
    for name in PREPARING:
        assert options[name].default == default[name], name
        flag = "--" + name.replace("_", "-")
        assert flag in options[name].opts and not set(options[name].opts) - {flag}
    if command != "train":
        assert options["length"].default == LENGTH


def test_functions_have_the_same_defaults(monkeypatch):
    taken = []
    monkeypatch.setattr(estimate, "resolved", lambda config, *_: taken.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        estimate.estimate(BERT)
    assert taken == [TrainConfig()]
    for function in (estimate.estimate, steps.measure):
        assert inspect.signature(function).parameters["length"].default == LENGTH


def test_profile_without_options_trains_what_train_would(stored, measured):
    folder = stored(torch.float32)
    assert "measured enough" in CliRunner().invoke(app, ["profile", "--model", folder, "--length", "8"]).stderr
    task, plain = TASKS["sequence"], TrainConfig(model=folder, dtype="float32")
    assert measured == [METHODS[name].resolved(replace(plain, method=name), task) for name in ("full", "sparse")]
    chosen = measured[1].selecting
    assert (chosen.kind, chosen.density, chosen.layers, measured[1].training.batch_size) == ("groups", 1 / 8, "all", 32)


@pytest.mark.parametrize(
    "options", [{}, {"method": "lora"}, {"method": "lora", "lora_targets": "all-linear"}, {"method": "head"}]
)
def test_a_run_trains_what_estimate_says(tmp_path, options):
    pytest.importorskip("datasets")
    if options.get("method") == "lora":
        pytest.importorskip("peft")
    from clm_kernels.finetune import train

    config = TrainConfig(model=save_model(tmp_path / "model"), epochs=1, **write_data(tmp_path), **options)
    report = train(replace(config, output=str(tmp_path / "out")), lambda line: None)
    model = read_config(config.data.model, num_labels=len(report.labels))
    assert estimate.estimate(model, config, 16).trained == report.trained
    config = resolved(config, model)
    drawn = METHODS[config.training.method].draw(subject.build(model, config, "cpu"), config)
    assert drawn == Selection.load(tmp_path / "out" / "selection.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_the_type_that_train_loads(tmp_path, dtype):
    folder = save_model(tmp_path / "model", dtype=dtype)
    for method in METHODS:
        if method == "lora":
            pytest.importorskip("peft")
        config = TrainConfig(model=folder, method=method)
        task = TASKS["sequence"]
        loaded = load_base(METHODS[method].resolved(config, task).data, task, ["a", "b", "c"]).model
        assert subject.DTYPES[resolved(config, read_config(folder)).data.dtype] == loaded.dtype, method


def test_float16_is_refused_where_train_refuses_it(stored):
    described = read_config(stored(torch.float16))
    message = "^here: dtype must be float32 or bfloat16 for a checkpoint in float16, got 'auto'$"
    with pytest.raises(ValueError, match=message):
        resolved(TrainConfig(), described)
    assert resolved(TrainConfig(dtype="bfloat16"), described).data.dtype == "bfloat16"
    assert resolved(TrainConfig(method="full"), described).data.dtype == "float32"


def test_tables_say_where_types_differ(stored, measured):
    folder = stored(torch.bfloat16)
    result = CliRunner().invoke(app, ["estimate", "--model", folder, "--length", "8"])
    assert result.exit_code == 0, result.output
    assert "full, float32" in result.output and "sparse 0.125 groups, all " in result.output
    assert "32 x 8 tokens, bfloat16, cuda" in " ".join(result.output.split())
    CliRunner().invoke(app, ["profile", "--model", folder, "--length", "8"])
    assert [config.data.dtype for config in measured] == ["float32", "bfloat16"]


def test_without_peft_lora_alone_is_refused(stored, monkeypatch):
    folder = stored(torch.float32)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RuntimeError, match=r'pip install "clm-kernels\[lora\]"'):
        resolved(TrainConfig(method="lora"))
    assert resolved(TrainConfig()).training.method == "sparse"
    refused = CliRunner().invoke(app, ["estimate", "--model", folder, "--length", "8", "--method", "lora"])
    assert refused.exit_code == 1 and 'pip install "clm-kernels[lora]"' in refused.stderr


@pytest.mark.parametrize(
    "option",
    [
        {"backward": 0.5},
        {"selection": "s"},
        {"merge_tokens": 3},
        {"replay": True, "layers": "upper half"},
        {"precision": "bf16"},
        {"packing": True},
        {"skip": 0.1},
        {"noise": 0.1},
        {"cost": 0.4},
    ],
    ids=str,
)
def test_what_cannot_be_told_without_texts_is_refused(option):
    with pytest.raises(ValueError, match=f"^here: {next(iter(option))} must be left out"):
        resolved(TrainConfig(**option))
