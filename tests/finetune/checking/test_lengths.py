"""What the tokenizer of a model says of texts."""

import needs_datasets  # noqa: F401
import pytest
from checks import checked, clean, found, where
from tiny_task import FILLERS, byte_tokenizer, save_model, sentences, write_jsonl

from clm_kernels.finetune.checking import lengths
from clm_kernels.finetune.checking.checked import check_files
from clm_kernels.finetune.config import Data


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def known(count=40):
    """Different texts of words that the tokenizer knows."""
    return [
        {"text": " ".join(FILLERS[int(digit)] for digit in f"{i:03}") + " refund", "label": "ab"[i % 2]} for i in range(count)
    ]


def test_known_and_short_texts(tmp_path, model):
    assert found(tmp_path, model=model, train=known()) == {}


def test_what_is_cut_off_is_what_train_cuts_off(tmp_path, model):
    rows = known()
    for row, words in ((3, 6), (7, 7)):  # and two of the tokenizer's own; train cuts at 8
        rows[row]["text"] = " ".join(["refund"] * words)
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    result = check_files(Data(train=path, model=model, max_length=8))
    finding = next(finding for finding in result.findings if finding.code == "cut-train")
    assert (finding.severity, finding.count, finding.of, where(finding)) == ("warning", 1, 40, ["train 8"])
    assert "8 tokens" in finding.what


def test_the_model_sets_the_limit_too(tmp_path):
    model = save_model(tmp_path / "small", max_position_embeddings=16)
    rows = known()
    rows[0]["text"] = "refund " * 15
    assert found(tmp_path, model=model, train=rows)["cut-train"].count == 1


def test_a_template_takes_room(tmp_path, model):
    path = write_jsonl(tmp_path / "train.jsonl", known())
    assert check_files(Data(train=path, model=model, max_length=8)).findings == []
    found = check_files(Data(train=path, model=model, max_length=8, template="please {text} is about it")).findings
    assert [(finding.code, finding.count) for finding in found] == [("cut-train", 40)]


def test_unknown_tokens(tmp_path, model):
    rows = known()
    rows[5]["text"] += " zzz yyy"
    rows[9]["text"] += " zzz"
    finding = found(tmp_path, model=model, train=rows)["unknown-train"]
    assert (finding.count, finding.of, where(finding)) == (3, 40 * 4 + 3, ["train 6", "train 10"])


def test_words(tmp_path, model):
    train = write_jsonl(tmp_path / "train.jsonl", sentences(20, 0)[:1] + [{"tokens": ["bob"] * 9, "tags": ["B-PER"] * 9}] * 9)
    findings = {finding.code: finding for finding in check_files(Data(train=train, model=model, max_length=8)).findings}
    assert findings["cut-train"].count == 9


def test_byte_level_tokenizers_know_everything(tmp_path):
    model = save_model(tmp_path / "bytes", "llama", made=byte_tokenizer())
    assert found(tmp_path, model=model, train=clean("train")) == {}


def test_half_a_character_is_not_tokenised(tmp_path, model):
    rows = known()
    rows[0]["text"] = "x \ud83d"
    assert found(tmp_path, model=model, train=rows).keys() == {"no-unicode"}


def test_of_many_texts_some_are_drawn(tmp_path, model, monkeypatch):
    monkeypatch.setattr(lengths, "SAMPLE", 50)
    monkeypatch.setattr(lengths, "BATCH", 20)
    rows = known(200)
    for row in rows[::2]:
        row["text"] += " zzz"
    part = checked(tmp_path, model=model, train=rows).seen.parts[0]
    drawn = [row for row, _ in part.lengths.rows]
    assert len(drawn) == len(set(drawn)) == 50 and drawn == sorted(drawn) and drawn[-1] > 150
    finding = found(tmp_path, model=model, train=rows)["unknown-train"]
    assert "of 50 texts drawn from 200" in finding.what and 10 < finding.count < 40
    assert finding == found(tmp_path, model=model, train=rows)["unknown-train"]


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"check: model .* must be a directory"):
        found(tmp_path, model=str(tmp_path / "none"), train=known())
