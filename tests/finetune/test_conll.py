"""Files in CoNLL's columns: what ends a sentence, what is no word, and what cannot be read."""

import json

import needs_datasets  # noqa: F401
import pytest
from tiny_task import write_jsonl

from clm_kernels.finetune.config import Data
from clm_kernels.finetune.data import find_task, read_split
from clm_kernels.finetune.files import read_rows
from clm_kernels.finetune.tasks import TASKS

FOUR = """-DOCSTART- -X- -X- O

# sent_id = 1
EU NNP B-NP B-ORG
rejects VBZ B-VP O

# O O O
calls VB B-VP O
-DOCSTART- -X- -X- O
Peter NNP B-NP B-PER
"""


def rows(path, content, bad=None):
    path.write_bytes(content.encode())
    return list(read_rows(path, bad))


def test_the_token_is_first_and_the_tag_last(tmp_path):
    found = rows(tmp_path / "a.conll", FOUR.replace("\n", "\r\n"))
    assert found == [
        ("line 4", {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
        ("line 7", {"tokens": ["#", "calls"], "tags": ["O", "O"]}),  # a word, for it has the others' columns
        ("line 10", {"tokens": ["Peter"], "tags": ["B-PER"]}),
    ]


def test_between_tabs_tags_may_hold_spaces(tmp_path):
    ((_, row),) = rows(tmp_path / "a.conll", "# a comment\nNew York\tB-big city\nis\tO\n")
    assert row == {"tokens": ["New York", "is"], "tags": ["B-big city", "O"]}


def test_it_is_a_tagger_and_one_column_is_read_for_predictions(tmp_path):
    path = tmp_path / "a.conll"
    rows(path, FOUR)
    assert find_task(Data(train=str(path))).name == "token"
    same = write_jsonl(tmp_path / "a.jsonl", [row for _, row in read_rows(path)])
    of_columns, of_lists = (read_split(each, TASKS["token"], Data()) for each in (path, same))
    assert (of_columns.texts, of_columns.labels) == (of_lists.texts, of_lists.labels)
    ((_, row),) = rows(path, "EU\nrejects\n")
    assert row == {"tokens": ["EU", "rejects"]}


def test_a_sentence_with_another_number_of_columns_is_refused_or_left_out(tmp_path):
    broken, said = FOUR.replace("rejects VBZ", "rejects"), []
    with pytest.raises(ValueError, match=r"a.conll, line 5 must be 4 columns as the first line has, got 3"):
        rows(tmp_path / "a.conll", broken)
    found = rows(tmp_path / "a.conll", broken, lambda where, error: said.append(where))
    assert [where for where, _ in found] == ["line 7", "line 10"] and said == ["line 4"]


def test_tags_with_spaces_stay_whole_in_lists(tmp_path):
    row = {"tokens": ["New", "York"], "tags": ["B-big city", "I-big city"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read_split(tmp_path / "a.jsonl", TASKS["token"], Data()).labels == [row["tags"]]
