"""Model folders that try to run code: a tiny classifier each, altered in one way."""

import json
import os
import pickle
import shutil
from itertools import combinations, islice
from pathlib import Path

import torch
from models import build
from safetensors.torch import load_file
from tiny_task import tokenizer

MARK = "EVIL_WAS_HERE"
CODE = f'''
import pathlib, tempfile
pathlib.Path(tempfile.gettempdir(), "{MARK}").write_text(__name__)
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class Evil(BertForSequenceClassification): pass
class EvilConfig(BertConfig): model_type = "evil"
class EvilTokenizer(PreTrainedTokenizerFast): pass
'''
MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.Evil",
    "AutoModelForSequenceClassification": "evil.Evil",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
}
UPSTREAM = dict.fromkeys(("AutoConfig", "AutoModelForSequenceClassification"), "someone/evil--evil.Evil")
NAMES = ("evil", "custom_generate", "kernels", "bitsandbytes", "megatron", "clm_pooled", "sitecustomize", "usercustomize")


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch /tmp/{MARK}",)


def save_classifier(folder: Path) -> Path:
    """A good one: what every hostile folder is made of."""
    model = build("bert", seed=0)
    model.config.id2label = dict(enumerate(("access", "billing", "delivery")))
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def _json(file, **changes):
    def alter(folder):
        path = folder / file
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(known | changes))

    return alter


def _config(**changes):
    return _json("config.json", **changes)


def _tokenizer(**changes):
    return _json("tokenizer_config.json", **changes)


def _text(file, content):
    def write(folder):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(content)

    return write


def _pickled(file, whole=False):
    """A pickle in place of the weights, or beside them."""

    def write(folder):
        (folder / file).write_bytes(pickle.dumps(Payload()))
        if not whole:
            (folder / "model.safetensors").unlink()

    return write


def _torch_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _sharded(**where):
    def write(folder):
        _pickled("evil.bin")(folder)
        names = load_file(folder / "other" / "model.safetensors") if (folder / "other").is_dir() else ["classifier.bias"]
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, where["to"])}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return write


def _link(file, target):
    def write(folder):
        path = folder / file
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return write


def _fifo(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def _named(config, **more):
    """A config whose code is in this folder, wherever transformers looks for it."""

    def write(folder):
        place = str(folder)
        own = {key: value | {"_name_or_path": place, "name_or_path": place} if isinstance(value, dict) else value
               for key, value in config.items()}  # fmt: skip
        _config(**own, **more)(folder)

    return write


ADAPTER = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "someone/evil",
    "r": 2,
    "target_modules": ["query"],
}
WAYS = {
    "unknown type": _config(model_type="evil", auto_map=MAP),
    "unknown type, config alone": _config(model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"}),
    "unknown type, upstream": _config(model_type="evil", auto_map=UPSTREAM),
    "no type": _config(model_type=None, auto_map=MAP),
    "empty type": _config(model_type="", auto_map=MAP),
    "type is a path": _config(model_type="../evil", auto_map=MAP),
    "type is a list": _config(model_type=["evil"], auto_map=MAP),
    "pooled type": _config(model_type="clm_pooled_evil", auto_map=MAP),
    "pooled bert": _config(model_type="clm_pooled_bert", clm_pooling="mean", auto_map=MAP),
    "known type": _config(auto_map=MAP),
    "known type, upstream": _config(auto_map=UPSTREAM),
    "type without a classifier": _config(model_type="siglip_vision_model", auto_map=MAP),
    "type without a classifier, upstream": _config(model_type="siglip_vision_model", auto_map=UPSTREAM),
    "auto_map is a text": _config(model_type="evil", auto_map="evil.EvilConfig"),
    "nested": _named({"vision_config": {"model_type": "blip_vision_model", "auto_map": MAP}}, model_type="gemma3",
                     architectures=["Gemma3ForSequenceClassification"]),
    "nested, upstream": _named({"vision_config": {"model_type": "blip_vision_model", "auto_map": UPSTREAM}}, model_type="gemma3",
                               architectures=["Gemma3ForSequenceClassification"]),
    "hub attention": _config(_attn_implementation="someone/evil"),
    "hub attention, public name": _config(attn_implementation="someone/evil:evil"),
    "hub attention, nested": _config(attn_implementation={"": "someone/evil"}),
    "flash attention": _config(_attn_implementation="flash_attention_2"),
    "hub experts": _config(_experts_implementation="someone/evil"),
    "quantized": _config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "quantized, unknown": _config(quantization_config={"quant_method": "evil", "modules_to_not_convert": None}),
    "quantized, gptq": _config(quantization_config={"quant_method": "gptq", "bits": 4, "dataset": "c4"}),
    "custom pipelines": _config(custom_pipelines={"evil": {"impl": "evil.Evil", "pt": ["AutoModel"]}}),
    "weights elsewhere": _config(transformers_weights="../other.safetensors"),
    "weights as an adapter's pickle": [_config(transformers_weights="adapter_model.bin"), _pickled("adapter_model.bin")],
    "deep config": _text("config.json", '{"a":' * 50_000 + "1" + "}" * 50_000),
    "config is a list": _text("config.json", "[]"),
    "config is null": _text("config.json", "null"),
    "config is a tree of code": _config(id2label={"0": {"__reduce__": "evil"}, "1": 1}),
    "config is a pipe": _fifo,
    "config is a link to itself": _link("config.json", "config.json"),
    "config is a link to endless zeros": _link("config.json", "/dev/zero"),
    "pickled weights": _pickled("pytorch_model.bin"),
    "pickled weights beside": _pickled("pytorch_model.bin", whole=True),
    "torch's pickle": _torch_pickle,
    "pickle named safetensors": _pickled("model.safetensors", whole=True),
    "shard is a pickle": _sharded(to="evil.bin"),
    "shard elsewhere": _sharded(to="../../other.safetensors"),
    "pickled shards": [_pickled("evil.bin"), _json("pytorch_model.bin.index.json", weight_map={"classifier.bias": "evil.bin"})],
    "weights are a link to a pickle": [_pickled("evil.bin"), _link("model.safetensors", "evil.bin")],
    "tokenizer's code": _tokenizer(auto_map={"AutoTokenizer": MAP["AutoTokenizer"]}),
    "tokenizer's code, fast alone": _tokenizer(auto_map={"AutoTokenizer": [None, "evil.EvilTokenizer"]}),
    "tokenizer's code, old form": _tokenizer(auto_map=MAP["AutoTokenizer"]),
    "tokenizer's code, a text": _tokenizer(auto_map={"AutoTokenizer": "evil.EvilTokenizer"}),
    "tokenizer's code, unknown class": _tokenizer(auto_map={"AutoTokenizer": MAP["AutoTokenizer"]}, tokenizer_class="Evil"),
    "tokenizer's code, upstream": _tokenizer(auto_map={"AutoTokenizer": ["someone/evil--evil.T", None]}, tokenizer_class="Evil"),
    "tokenizer's class": _tokenizer(tokenizer_class="evil.EvilTokenizer"),
    "tokenizer of RAG": _tokenizer(tokenizer_class="RagTokenizer"),
    "tokenizer elsewhere": _tokenizer(tokenizer_file="someone/evil", name_or_path="someone/evil"),
    "tokenizer of another config": _config(tokenizer_class="EvilTokenizer", auto_map={"AutoTokenizer": MAP["AutoTokenizer"]}),
    "chat template": _tokenizer(chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}{% include 'evil.py' %}"),
    "chat template file": _text("chat_template.jinja", "{{ cycler.__init__.__globals__.os.system('touch evil') }}"),
    "adapter beside": _json("adapter_config.json", **ADAPTER),
    "adapter with megatron": [_json("adapter_config.json", **ADAPTER, megatron_config={"a": 1}, megatron_core="megatron.evil"),
                              _text("megatron/__init__.py", CODE), _text("megatron/evil.py", CODE)],
    "adapter with its own model": _json("adapter_config.json", **ADAPTER,
                                        auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}),
    "adapter's pickle": [_json("adapter_config.json", **ADAPTER), _pickled("adapter_model.bin", whole=True)],
    "sentence-transformers' own classes": _text("modules.json", '[{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]'),
    "pooling is a list": _text("1_Pooling/config.json", "[]"),
    "pooling is code": _config(clm_pooling="__import__('os').system('touch evil')"),
    "generation's code": [_json("generation_config.json", custom_generate="evil"), _text("custom_generate/generate.py", CODE)],
    "packages of the folder": [_text(f"{name}.py", CODE) for name in NAMES],
    "hub kernels beside": [_text("kernels/__init__.py", CODE), _config(_attn_implementation="someone/evil")],
    "requirements": _text("requirements.txt", "evil"),
    "template": _config(clm_template="{text.__class__} {text}"),
}  # fmt: skip


ALONE = tuple(
    way for way in WAYS if way.startswith(("config is", "deep", "shard", "pickled", "weights are", "torch's", "pickle named"))
)
PAIRS = tuple(islice(combinations([way for way in WAYS if way not in ALONE], 2), 3, None, 37))


def make(folder: Path, good: Path, *ways: str) -> Path:
    """The folder altered in these ways; its Python stands in it."""
    shutil.copytree(good, folder)
    (folder / "evil.py").write_text(CODE)
    for way in ways:
        steps = WAYS[way]
        for alter in steps if isinstance(steps, list) else [steps]:
            alter(folder)
    return folder
