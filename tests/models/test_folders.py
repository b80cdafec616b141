"""The door to model folders: the only one, and what goes through it."""

import ast
import json
import sys

import pytest
from hostile_folders import CODE
from models import build
from places import ROOT

from clm_kernels.models.folders import described, read_adapter_config, read_config

DOOR = "clm_kernels/models/folders.py"
OWN = {  # what was written a moment ago, read as its user will; a config that was made here
    "clm_kernels/finetune/shipping/checkpoint.py",
    "clm_kernels/finetune/shipping/embedding.py",
    "benchmarks/architectures/tiny.py",
    "benchmarks/head.py",  # of the demo's own model
    "benchmarks/tasks/contrastive.py",  # SetFit's own loader, of the model that is compared
}
READING = {
    "from_pretrained",
    "from_config",
    "for_model",
    "from_json_file",
    "pipeline",
    "load_adapter",
    "get_class_from_dynamic_module",
}
FILES = sorted(path for part in ("clm_kernels", "benchmarks") for path in (ROOT / part).rglob("*.py"))


def calls(path):
    """Calls in a file that read a model folder by transformers or PEFT, or could."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in READING:
                yield node


def test_no_other_file_reads_a_model_folder():
    found = {str(path.relative_to(ROOT)) for path in FILES if any(calls(path))}
    assert found == {DOOR} | OWN


def test_every_call_refuses_code():
    for call in calls(ROOT / DOOR):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if call.func.attr != "for_model":  # which reads no file
            assert given["trust_remote_code"] == "False", ast.unparse(call)
        if call.func.attr == "from_pretrained":
            assert given["local_files_only"] == "True", ast.unparse(call)


def test_auto_map_goes_no_further(tmp_path):
    model = build("bert")
    model.config.auto_map = {"AutoModelForSequenceClassification": "evil.Evil"}
    model.config.save_pretrained(tmp_path)
    assert "auto_map" in described(tmp_path)
    read = read_config(tmp_path)
    assert not hasattr(read, "auto_map") and type(read) is type(model.config)


def saved_adapter(folder, **changes):
    peft = pytest.importorskip("peft")
    made = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", base_model_name_or_path="base", **changes)
    made.save_pretrained(folder)
    return peft.LoraConfig.from_pretrained(str(folder))


def test_an_adapters_config_is_what_peft_reads(tmp_path):
    as_peft = saved_adapter(tmp_path)
    assert read_adapter_config(tmp_path) == as_peft


def test_long_names_are_cut_in_what_is_said(tmp_path):
    saved_adapter(tmp_path)
    path = tmp_path / "adapter_config.json"
    for changes in ({"9" * 5000: 1}, {"peft_type": "9" * 5000}):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(ValueError, match=r"^read_adapter_config: ") as caught:
            read_adapter_config(tmp_path)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "changes", [{"use_rslora": True}, {"bias": "all"}, {"modules_to_save": ["x"], "use_dora": True}], ids=str
)
def test_an_adapter_of_another_kind(tmp_path, changes):
    saved_adapter(tmp_path, **changes)
    with pytest.raises(ValueError, match="must be one that the method lora left, got one with"):
        read_adapter_config(tmp_path)


def test_an_adapters_module_is_not_imported(tmp_path, monkeypatch):
    """PEFT imports the module ``megatron.…`` that an adapter names."""
    saved_adapter(tmp_path, megatron_config={"a": 1}, megatron_core="megatron.evil")
    (tmp_path / "megatron").mkdir()
    for name in ("__init__", "evil"):
        (tmp_path / "megatron" / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="megatron_config"):
        read_adapter_config(tmp_path)
    assert "megatron" not in sys.modules


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"a":' * 9999, "\xff"], ids=["list", "null", "broken", "deep", "latin"])
def test_what_is_no_json_object(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"^read_config: .*config.json' must be a JSON object, got"):
        read_config(tmp_path)
