"""A tokenizer of whole words, as a fixture."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["my", "card", "was", "charged", "twice", "please", "refund", "it", "the", "app", "crashed", "again", "?"]


PIECES = ["[UNK]", *WORDS, "re", "##fund", "##s", "top"]


@pytest.fixture(scope="module")
def tokenizer():
    model = models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    plain = Tokenizer(model)
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]")
