"""Keeps what tiny runs of this version leave, for later versions to read: `PYTHONPATH=tests/helpers python tests/reliability/keep_release.py`."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from tiny_runs import FAST, silent
from tiny_task import save_model, write_data

from clm_kernels import Classifier, __version__
from clm_kernels.finetune import TrainConfig, train

RUNS = {"sparse": {}, "tokens": {"select": "tokens", "energy": "0.99"}, "full": {"method": "full", "select": "auto"}}
LEFT_OUT = ("*.png", "*.py")


def main() -> None:
    folder = Path(__file__).parent / "releases" / __version__
    with tempfile.TemporaryDirectory() as made:
        made = Path(made)
        base = TrainConfig(model=save_model(made / "base"), **write_data(made), **FAST | {"epochs": 2})
        texts = [json.loads(line)["text"] for line in Path(base.data.validation).read_text(encoding="utf-8").splitlines()[:6]]
        predictions = {}
        for name, options in RUNS.items():
            train(replace(base, output=str(made / name), **options), silent)
            found = Classifier.load(made / name).predict(texts)
            predictions[name] = [[one.text, one.label, float(one.probability)] for one in found]
        for name in ("base", *RUNS):
            shutil.copytree(made / name, folder / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (folder / "predictions.json").write_text(json.dumps(predictions, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
