"""A fine-tuned encoder for sentence-transformers: its vectors are those that the head read, its head gives the logits."""

import json

import numpy as np
import pytest
import torch
from shipped import TEXTS, classifier

from clm_kernels.finetune.shipping import embedding
from clm_kernels.finetune.shipping.embedding import export_embedding
from clm_kernels.finetune.shipping.head_chain import pooled

CASES = [("bert", pooling, 1) for pooling in ("mean", "max", "cls", "last")]
CASES += [("bert", "native", 2), ("roberta", "mean", 2), ("distilbert", "max", 2), ("deberta", "native", 2), ("mpnet", "mean", 2)]
CASES += [
    ("modernbert", "mean", 0),
    ("modernbert", "native", 0),
    ("llama", "last", 1),
    ("llama", "mean", 1),
    ("albert", "cls", 1),
]


@pytest.mark.parametrize(("family", "pooling", "layers"), CASES)
def test_sentence_transformers_gives_the_same(family, pooling, layers, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Dense

    made = classifier(family, pooling)
    difference, found = export_embedding(made.served(), tmp_path / "o", None)
    assert difference <= 1e-5 and found == layers
    batch = made.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        vectors, logits = pooled(made.model, batch).numpy(), made.model(**batch).logits.numpy()
    model = library.SentenceTransformer(str(tmp_path / "o"), device="cpu", trust_remote_code=False)
    assert np.abs(model.encode(TEXTS) - vectors).max() < 1e-5 and model.get_embedding_dimension() == 32
    features = model(model.preprocess(TEXTS))
    for i in range(layers):
        features = Dense.load(str(tmp_path / "o"), subfolder=f"head/{i}")(features)
    assert not layers or np.abs(features["scores"].detach().numpy() - logits).max() < 1e-4


def test_without_the_library_it_is_compared_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "pool", lambda hidden, mask, mode: hidden[:, 0])
    with pytest.raises(ValueError, match=r"^export: logits of the exported embeddings must be within 1e-05"):
        export_embedding(classifier().served(), tmp_path / "o", None)
    assert not any((tmp_path / "o").iterdir())


def test_words_before_every_text_become_the_prompt(tmp_path):
    made = classifier(clm_template="my {text}")
    export_embedding(made.served(), tmp_path / "o", None)
    told = json.loads((tmp_path / "o" / "config_sentence_transformers.json").read_text())
    assert (told["prompts"], told["default_prompt_name"]) == ({"text": "my "}, "text")
    with pytest.raises(ValueError, match=r"^export: the template must be one that ends in the text"):
        export_embedding(classifier(clm_template="my {text} please").served(), tmp_path / "p", None)


def test_a_tagger_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^export: sentence_transformers must be left out for a tagger"):
        export_embedding(classifier(task="token").served(), tmp_path / "o", None)
