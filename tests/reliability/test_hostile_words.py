"""Labels, texts, words and names of files that are commands to a terminal, a spreadsheet, a page or a formula: none gets through."""

import ast
import json
import os
import subprocess
import sys
import unicodedata
from types import SimpleNamespace

import needs_datasets  # noqa: F401
import pytest
from command_line import run
from places import ROOT
from tiny_task import save_model, write_jsonl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clm_kernels.escaping import as_json, cell, visible

LABELS = [
    "\x1b[31mred\x1b]0;title\x07", "nul\x00nul", "\u202eright\u2066to left", "=cmd|'/c calc'!A1", "../../up", "<script>x</script>&amp;",
    "$\\frac", "[/bold] [red]\\", "\x9b2Jclear", "-1+1", "@user", "\u65e5\u672c \u0e01 \U0001f469\u200d\U0001f680 _x",
]  # fmt: skip
WORDS = ["".join(label.split()) for label in LABELS]
FAST = ["--epochs", "1", "--batch-size", "8", "--density", "0.2", "--sensitivity-examples", "24", "--validation-fraction", "0.25"]
ALLOWED = "\n\t"


def unseen(raw: bytes) -> set[str]:
    """What stands in bytes and must not: what is neither seen nor a space, a joiner, or the end of a line or cell."""
    text = raw.decode("utf-8")
    return {
        repr(c) for c in text if not c.isprintable() and c not in ALLOWED + "\u200c\u200d" and unicodedata.category(c) != "Zs"
    }


def texts(count=6):
    return [{"text": f"the {word} is {word}", "label": label} for _ in range(count) for word, label in zip(WORDS, LABELS)]


def sentences(count=6):
    return [
        {"tokens": [word, "the", word], "tags": [label, "O", label]} for _ in range(count) for word, label in zip(WORDS, LABELS)
    ]


def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "is", *dict.fromkeys(WORDS)]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module", params=[texts, sentences])
def trained(request, tmp_path_factory):
    """A run on such data, in a folder of such a name: task, output, file of texts, and what `train` wrote."""
    folder = tmp_path_factory.mktemp("words") / "\x1b[31m [red] $x\u202e"
    folder.mkdir()
    model = save_model(folder / "[/model] $\\frac", made=tokenizer())
    train = write_jsonl(folder / "train.jsonl", request.param())
    done = run(
        "train", "--model", model, "--train", train, "--output", folder / "out", "--energy", "0.9", "--select", "fisher", *FAST
    )
    assert done.exit_code == 0, done.stderr
    return request.param, folder, model, train, done


def passed(done):
    assert done.exit_code == 0, done.stderr
    assert unseen(done.stdout_bytes) == unseen(done.stderr_bytes) == set()
    return done.stdout


def test_train(trained):
    passed(trained[-1])


def test_predict(trained):
    _, folder, _, train, _ = trained
    out = passed(run("predict", "--model", folder / "out", train))
    cells = [value for line in out.splitlines() for value in line.split("\t")]
    assert not [value for value in cells if len(value) > 1 and value[0] in "=+-@\t\r"]


def test_predict_as_json_is_exact(trained):
    make, folder, _, train, _ = trained
    lines = passed(run("predict", "--jsonl", "--model", folder / "out", train)).splitlines()
    text, label = ("text", "label") if make is texts else ("tokens", "tags")
    found = [json.loads(line) for line in lines]
    assert [row[text] for row in found] == [row[text] for row in make()]
    named = {name for row in found for name in ([row[label]] if make is texts else row[label])}
    assert named <= {*LABELS, "O"}


def test_tokens_and_their_picture(trained, tmp_path):
    _, _, model, train, _ = trained
    for kind in ("png", "svg"):
        options = ["--minimum", "1", "--picture", tmp_path / f"p.{kind}", "--output", tmp_path / "groups.json"]
        passed(run("tokens", "--model", model, "--train", train, *options))
        assert (tmp_path / f"p.{kind}").stat().st_size > 1000
    assert unseen((tmp_path / "p.svg").read_bytes()) == set()


def test_active_words_and_their_picture(trained, tmp_path):
    _, folder, *_ = trained
    for kind in ("png", "svg"):
        out = passed(run("tokens", "--active", folder / "out", "--picture", tmp_path / f"p.{kind}"))
        assert (tmp_path / f"p.{kind}").stat().st_size > 1000
    assert "\\x1b[31m" in out and unseen((tmp_path / "p.svg").read_bytes()) == set()


def run_apart(*arguments):
    """As `run`, in a process of its own: what other tests leave in torch's state may keep a model from running without data."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "clm_kernels", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    said = {
        "stdout_bytes": done.stdout,
        "stderr_bytes": done.stderr,
        "stdout": done.stdout.decode(),
        "stderr": done.stderr.decode(),
    }
    return SimpleNamespace(exit_code=done.returncode, **said)


def test_estimate_select_and_export(trained, tmp_path):
    _, folder, model, train, _ = trained
    passed(run_apart("estimate", "--model", model, "--length", "8", "--device", "cpu"))
    passed(run("select", "--model", model, "--train", train, "--output", folder / "s.safetensors", *FAST[2:]))
    passed(run("export", "--model", folder / "out", "--output", folder / "merged"))


ERRORS = {
    "no file": lambda folder: ["predict", "--model", folder / "out", folder / "\x1b[2Jnone.txt"],
    "broken row": lambda folder: ["predict", "--model", folder / "out", write(folder / "\x1b[2J.jsonl", '{"\\u001b[2J": 1}\n')],
    "broken table": lambda folder: ["predict", "--model", folder / "out", write(folder / "\x07.csv", "a\x1b,b\n1\n")],
    "no column": lambda folder: ["predict", "--model", folder / "out", folder / "train.jsonl", "--text-column", "\x1b[2J",
                                 "--tokens-column", "\x1b[2J"],
    "no model": lambda folder: ["predict", "--model", folder / "\x1b]0;x\x07", folder / "train.jsonl"],
    "label": lambda folder: ["train", "--model", folder / "[/model] $\\frac", "--output", folder / "other", "--train",
                             write(folder / "one.jsonl", '{"text": "\\u001b[2J", "label": "\\u001b[2J"}\n' * 9)],
}  # fmt: skip


def write(path, content):
    path.write_text(content)
    return path


@pytest.mark.parametrize("name", ERRORS)
def test_error_messages(trained, name):
    done = run(*ERRORS[name](trained[1]))
    assert done.exit_code == 2 and unseen(done.stdout_bytes) == unseen(done.stderr_bytes) == set()
    assert "error:" in done.stderr


def test_every_command_writes_with_the_console_that_escapes():
    for path in (ROOT / "clm_kernels" / "cli").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console"
            for alias in node.names
        }
        assert not imported, path.name


@pytest.mark.parametrize("text", ["plain words", "na\u00efve \u65e5\u672c", "no\u00a0break", "\U0001f469\u200d\U0001f680", ""])
def test_what_is_seen_stays(text):
    assert visible(text) == cell(text) == text


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[31m", "\\x1b[31m"), ("a\tb\nc\r", "a\\tb\\nc\\r"), ("\u202e", "\\u202e"), ("\x9b", "\\x9b"), ("\ud800", "\\ud800"), ("\x7f", "\\x7f"),
    ("\U000e0041", "\\U000e0041"), ("\u2028", "\\u2028"), ("\ufeff", "\\ufeff"),
])  # fmt: skip
def test_what_is_not_seen_is_escaped(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\uff1d1"])
def test_formulas_are_quoted_in_cells(text):
    assert cell(text) == f"'{text}"
    assert cell(text[0]) == text[0]


def test_json_reads_back_exactly():
    value = {label: ["".join(map(chr, [*range(0x300), 0x202E, 0xFEFF, 0xE0041])), label, "\ud800"] for label in LABELS}
    line = as_json(value)
    assert json.loads(line) == value and unseen(line.encode()) == set() and "\n" not in line
    assert "\u00ef" in as_json("\u00ef")
