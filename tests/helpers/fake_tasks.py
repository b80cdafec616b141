"""Tasks that need no model: what `make_app` serves, as the tests of the service want it."""

import time
from typing import NamedTuple


class Ranked(NamedTuple):
    text: object
    label: object
    probability: object
    best: list


class FakeTasks:
    """ "intents" says whether a text has an even number of words, "topics" whether it says parcel; "tags" tags capital letters;
    "marks", where it is there, gives a text "long" from three words on and "parcel" where it says that.

    Attributes:
        batches: the texts of each call.
        seconds: that each call takes.
    """

    names = ["intents", "topics", "tags"]

    def __init__(self, seconds=0.0):
        self.batches, self.seconds = [], seconds

    def labels(self, name):
        return {"intents": ["even", "odd"], "topics": ["parcel", "other"], "tags": ["O", "B-name"], "marks": ["parcel", "long"]}[
            name
        ]

    def is_tagger(self, name):
        return name == "tags"

    def has_several(self, name):
        return name == "marks"

    def shares(self, name, prediction):
        return dict(prediction.best)

    def classify(self, texts, tasks, top=1):
        self.batches.append(list(texts))
        time.sleep(self.seconds)
        if "spoilt" in texts:
            raise ValueError("classify: texts must be fresh, got 'spoilt'")
        if "broken" in texts:
            raise KeyError("broken")
        return [self._one(text, task, top) for text, task in zip(texts, tasks, strict=True)]

    def _one(self, text, task, top):
        if task == "tags":
            words = text.split() if isinstance(text, str) else text
            tags = ["B-name" if word[0].isupper() else "O" for word in words]
            return Ranked(words, tags, [1.0] * len(words), [])
        if task == "marks":
            shares = {"parcel": 0.8 if "parcel" in text else 0.2, "long": len(text.split()) / 5}
            found = {label: share for label, share in shares.items() if share >= 0.6}
            return Ranked(text, list(found), list(found.values()), list(shares.items()))
        first = ("parcel" in text) if task == "topics" else len(text.split()) % 2 == 0
        labels = self.labels(task) if first else self.labels(task)[::-1]
        return Ranked(text, labels[0], 0.9, [(labels[0], 0.9), (labels[1], 0.1)][:top])

    def described(self, name, prediction):
        if self.is_tagger(name):
            return {"tokens": prediction.text, "tags": prediction.label, "probabilities": prediction.probability}
        if self.has_several(name):
            return {"text": prediction.text, "labels": prediction.label, "probabilities": prediction.probability}
        named = {"text": prediction.text, "label": prediction.label, "probability": prediction.probability}
        best = [{"label": label, "probability": probability} for label, probability in prediction.best]
        return named | ({"best": best} if len(best) > 1 else {})
