"""What is optional is asked for where it is first needed, in one line that says how to get it."""

import sys

import pytest
from blocked import python
from places import ROOT

import clm_kernels as clm
from clm_kernels.extras import EXTRAS, NotInstalled, install, install_here, needs, said_what_to_install

CORE = """
import clm_kernels as clm
assert not {"torch", "numpy"} & sys.modules.keys()
import torch

model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 2))
base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
clm.Selection({"0.weight": clm.Entries.of("rows", [1], (4, 6))}).save("selection")
handle = clm.patch(model, clm.Selection.load("selection"))
optimizer = clm.SparseAdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
model(torch.ones(3, 6)).sum().backward()
optimizer.step()
handle.delta().save("delta")
handle.restore()
trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
assert any(not torch.equal(tensor, base[name]) for name, tensor in trained.items())
model.load_state_dict(base)
with clm.Delta.load("delta").applied(model):
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())
for name in clm.__all__:
    try:
        getattr(clm, name)
    except clm.extras.NotInstalled as error:
        print(error)
"""


def test_the_core_needs_torch_numpy_and_safetensors_alone(tmp_path):
    run = python(f"import os; os.chdir({str(tmp_path)!r})" + CORE, EXTRAS, PYTHONPATH=str(ROOT))
    assert run.returncode == 0, run.stderr
    lines = sorted(run.stdout.splitlines())
    assert [line.split(":")[0] for line in lines] == ["Classifier", "TextClassifier", "Trunk", "evaluate", "train", "train_tasks"]
    extras = ["train", "sklearn", "train", "train", "train", "train"]
    assert all(line.endswith(f' is needed: pip install "clm-kernels[{extra}]"') for line, extra in zip(lines, extras))


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_the_program_without_its_own_packages_says_so(package):
    run = python("from clm_kernels.__main__ import main; main()", [package])
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr == f'clm-kernels: the package {package} is needed: pip install "clm-kernels[cli]"\n'


def test_commands_without_transformers_say_so():
    script = """
from typer.testing import CliRunner
from clm_kernels.cli import app
for command in (
    "train --model m --train t --output o", "select --model m --train t", "tokens --model m --train t", "predict --model m", "evaluate m d",
    "export --model m --output o", "profile --model m", "estimate --model m",
):
    done = CliRunner().invoke(app, command.split())
    print(done.exit_code, done.stderr, end="")
print(CliRunner().invoke(app, ["doctor"]).stdout)
"""
    run = python(script, ["transformers"])
    assert run.returncode == 0, run.stderr
    *lines, doctor = run.stdout.split("\n", 8)
    assert [line.partition(" (")[0] for line in lines] == [
        f"1 error: {command}: the package transformers is needed: {install('transformers')}"
        for command in ("train", "select", "tokens", "predict", "evaluate", "export", "profile", "estimate")
    ]
    assert (
        f"missing transformers: of the commands only `bench` and this one run\n  to mend it: {install_here('transformers')}"
        in doctor
    )


def test_one_that_is_there_is_imported():
    assert needs("torch.nn", "here") is sys.modules["torch.nn"]


def test_one_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NotInstalled) as caught:
        needs("matplotlib.figure", "draw")
    assert str(caught.value) == 'draw: the package matplotlib is needed: pip install "clm-kernels[pictures]"'
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, RuntimeError)


def test_what_another_package_misses_is_named():
    """transformers' lazy imports raise an error of their own from the one that says what is missing."""
    with pytest.raises(NotInstalled, match=r"^train: the package accelerate is needed"), said_what_to_install("train"):
        try:
            raise ModuleNotFoundError("No module named 'accelerate.utils'", name="accelerate.utils")
        except ModuleNotFoundError as missed:
            raise ModuleNotFoundError("Could not import module 'Trainer'.") from missed


def test_other_failures_to_import_stay_what_they_are():
    for error in (
        ModuleNotFoundError("No module named 'mine'", name="mine"),
        ImportError("broken", name="peft"),
        ModuleNotFoundError("?"),
    ):
        with pytest.raises(ImportError) as caught, said_what_to_install("here"):
            raise error
        assert caught.value is error


# Nothing is loaded before it is needed

LOADED = "print(*sorted({'torch', 'numpy', 'transformers', 'datasets', 'clm_kernels.cli'} & sys.modules.keys()))"


def test_importing_the_package_loads_nothing():
    run = python(f"import clm_kernels; dir(clm_kernels); {LOADED}")
    assert run.stdout == "\n", run.stderr
    assert python(f"import clm_kernels; clm_kernels.SparseAdamW; {LOADED}").stdout.split()[-1] == "torch"  # it can be seen


LIGHT = (ROOT / "clm_kernels" / "defaults.py").exists()


@pytest.mark.skipif(not LIGHT, reason="clm_kernels/finetune/config.py imports torch")
@pytest.mark.parametrize("command", [["--help"], ["--version"], ["train", "--help"], ["estimate", "--help"]], ids=" ".join)
def test_help_needs_no_torch(command):
    script = f"""
from clm_kernels.__main__ import main
sys.argv = ["clm-kernels", *{command!r}]
try:
    main()
finally:
    {LOADED}
"""
    run = python(script)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "clm_kernels.cli" and (len(run.stdout.splitlines()) > 5 or "--version" in command)


def test_public_names_are_told():
    assert set(clm.__all__) <= set(dir(clm))
