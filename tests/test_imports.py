"""What may import what (DESIGN.md, "Layers"), and that the package imports without what is optional."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from blocked import python

from clm_kernels.extras import EXTRAS
from clm_kernels.ops.registry import MODULES, why_not

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clm_kernels"
LAYERS = (  # a part imports from the layers below its own
    {"__main__"},
    {"cli"},
    {"demo"},
    {"measure", "peft", "serving"},
    {"finetune"},
    {"selecting"},
    {"token_groups"},
    {"patching", "optim"},
    {"delta"},
    {"models"},
    {"values", "extension"},
    {"shards"},
    {"selection"},
    {"ops"},
    {"options", "tensors", "recipe", "energy"},
    {"strangers"},
    {"defaults", "errors", "escaping", "extras", "files", "fingerprint", "handles", "_version"},
)

IMPLEMENTATIONS = set(MODULES) | {"cuda", "triton"}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, path


def _imported(name, path, skip_types=False):
    """Absolute names of everything that a module imports, inside functions too; optionally without those for types."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if skip_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                node.body = []
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _part(name):
    """The part of the package that a module belongs to, or None for the package itself and for others."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "clm_kernels" and len(pieces) > 1 and (PACKAGE / pieces[1]).with_suffix("").name else None


def _parts(name, path):
    return {part for imported in _imported(name, path, skip_types=True) if (part := _part(imported))}


INSIDE = [pytest.param(name, path, id=name) for name, path in _modules() if _part(name)]
LAYER = {part: number for number, layer in enumerate(LAYERS) for part in layer}


@pytest.mark.parametrize(("name", "path"), INSIDE)
def test_imports_run_downward(name, path):
    own = _part(name)
    assert own in LAYER, f"{name}: name its layer here and in DESIGN.md"
    for other in _parts(name, path) - {own}:
        if other in LAYER:  # else something that the package's __init__ defines
            assert LAYER[other] > LAYER[own], f"{name} imports {other}, which does not lie below it"
        else:
            assert other in ("_cpu", "_cuda") and own == "ops", f"{name} imports {other} from the package's top"


def test_what_is_imported_is_the_core_or_has_an_extra():
    """So that whoever misses a package is told how to get it."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    core = {re.split(r"[<>=]", dependency)[0] for dependency in dependencies}
    assert core == {"torch", "numpy", "safetensors"}
    packages = {imported.split(".")[0] for name, path in _modules() for imported in _imported(name, path)}
    others = packages - sys.stdlib_module_names - {"clm_kernels"}
    assert core < others
    assert others - core <= set(EXTRAS)


def test_the_checker_sees_the_imports_that_there_are():
    """Else the test above would pass on nothing."""
    seen = {name: _parts(name, path) for name, path in _modules()}
    assert {"tensors", "ops"} <= seen["clm_kernels.selection"]
    assert "finetune" in seen["clm_kernels.cli.predict"]  # inside a function
    assert "selection" not in seen["clm_kernels.ops"]  # for types only


def test_no_modules_import_each_other_in_a_circle():
    """Types, and imports inside functions, counted too."""
    known = dict(_modules())
    above = {name: _inside(name, path, known) for name, path in known.items() if name != "clm_kernels"}
    while above:
        ground = [name for name, imported in above.items() if not imported & above.keys() - {name}]
        assert ground, f"a circle among {sorted(above)}"
        for name in ground:
            del above[name]


def _inside(name, path, known):
    """The modules of the package that a module imports, or from which it imports something."""
    found = set()
    for imported in _imported(name, path):
        while imported and imported not in known:
            imported = imported.rpartition(".")[0]
        found.add(imported)
    return found - {"", name, "clm_kernels"}


LENDING = {  # implementations that use parts of another one inside an op; which ops each has: test_ops_errors.py
    "matmul": {"matmul", "reference"},
    "triton": {"triton", "matmul", "reference"},
}


@pytest.mark.parametrize(("name", "path"), INSIDE)
def test_implementations_are_reached_through_the_registry_alone(name, path):
    own = name.split(".")[2] if name.startswith("clm_kernels.ops.") else None
    for imported in _imported(name, path):
        pieces = imported.split(".")
        if pieces[:2] == ["clm_kernels", "ops"] and len(pieces) > 2 and pieces[2] in IMPLEMENTATIONS:
            assert pieces[2] in LENDING.get(own, {own}), f"{name} imports {imported}"
        if pieces[0] == "clm_kernels" and pieces[1:2] in (["_cpu"], ["_cuda"]):
            assert own == pieces[1][1:], f"{name} imports {imported}"
        if own in IMPLEMENTATIONS and pieces[:2] == ["clm_kernels", "ops"]:
            known = LENDING.get(own, {own}) | {
                "addresses",
                "fields",
                "grouped",
                "layout",
                "padding",
                "parameters",
                "registry",
                "tokens",
                "upload",
            }
            assert pieces[2] in known, f"{name} imports {imported}: an implementation knows layouts, groups and itself"


def test_no_module_is_shadowed():
    """`import clm_kernels.<anything> as m` gives that module, whatever has been imported before, all public names included."""
    absent = tuple(f"clm_kernels.ops.{name}" for name in MODULES if why_not(name))
    names = [name for name, _ in _modules() if name != "clm_kernels.__main__" and not name.startswith(absent)]
    script = f"""
import importlib, types
import clm_kernels
[getattr(clm_kernels, name) for name in clm_kernels.__all__]
for again in range(2):
    for name in {names!r}:
        importlib.import_module(name)
for name in {names!r}:
    found = clm_kernels
    for piece in name.split(".")[1:]:
        found = getattr(found, piece)
    assert isinstance(found, types.ModuleType) and found.__name__ == name, (name, found)
print(len({names!r}))
"""
    run = python(script, TRITON_INTERPRET="1")
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == len(names) > 120


SOURCES = [
    path
    for folder, patterns in (
        ("clm_kernels", ("*.py",)),
        ("csrc", ("*.h", "*.cpp", "*.cu", "*.cuh")),
        ("tests", ("*.py",)),
        ("benchmarks", ("*.py",)),
    )
    for pattern in patterns
    for path in sorted((ROOT / folder).rglob(pattern))
]


def test_no_file_is_over_400_lines():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_csrc_knows_no_torch():
    sources = [path for path in SOURCES if ROOT / "csrc" in path.parents]
    assert sources
    for path in sources:
        assert not re.search(r'#\s*include\s*[<"](torch|ATen|c10|aten)\b', path.read_text(encoding="utf-8")), path


def test_without_a_build_the_reference_runs_and_the_build_is_refused_by_name():
    blocked = ["clm_kernels._cpu", *EXTRAS]
    run = python(
        "from clm_kernels import ops; import torch; print(ops.why_not('cpu')); print(ops.chosen(torch.device('cpu')))", blocked
    )
    assert run.returncode == 0, run.stderr
    why, chosen = run.stdout.splitlines()
    assert "the C++ kernels are not built" in why and "pip install" in why and chosen == "reference"

    script = """
import clm_kernels as clm, torch
clm.ops.gather(torch.zeros(4, 6), clm.Entries.of("rows", [1], (4, 6)))
"""
    assert python(script, blocked).returncode == 0
    run = python(script, blocked, CLM_KERNELS_BACKEND="cpu")
    assert run.returncode != 0
    assert "RuntimeError: clm_kernels: the implementation 'cpu' cannot run here: the C++ kernels are not built" in run.stderr
