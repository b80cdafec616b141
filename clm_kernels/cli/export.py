"""``clm-kernels export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import require
from ..escaping import visible
from .predict import DeltaFile, Model
from .quiet import quiet

if TYPE_CHECKING:
    from ..finetune.shipping.onnx_folder import Agreement
    from ..finetune.shipping.served import Served
    from ..finetune.split import Split


def export(
    model: Model,
    output: Annotated[str, typer.Option(help="New folder.", show_default=False)],
    delta: DeltaFile = "",
    onnx: Annotated[bool, typer.Option("--onnx", help="An ONNX graph, with its tokenizer.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="With --onnx: a graph with eight-bit weights too.")] = False,
    sentence_transformers: Annotated[
        bool, typer.Option("--sentence-transformers", help="The encoder as an embedding model, the head beside it.")
    ] = False,
    data: Annotated[
        str, typer.Option(help="Labelled file to compare on; by default what validated the run.", show_default=False)
    ] = "",
    no_code: Annotated[
        bool, typer.Option("--no-code", help="Write no Python file; refused where transformers' own class predicts otherwise.")
    ] = False,
) -> None:
    """Leave what runs without clm-kernels: a checkpoint for plain transformers, an ONNX graph, or an embedding model.

    A delta or an adapter is merged into its base. What was written is read again and compared with the trained model on real
    texts; where it differs, nothing is left.

    Where no class of transformers pools as the head does, a Python file goes along with a checkpoint, for `trust_remote_code=True`.
    """
    require(onnx or not int8, "export", "int8", "given with --onnx", int8)
    require(not (onnx and sentence_transformers), "export", "onnx", "left out with --sentence-transformers", onnx)
    quiet()
    from ..finetune import Classifier
    from ..finetune.shipping.rows import real_rows

    classifier = Classifier.load(model, delta)
    served = classifier.served()
    rows = real_rows(served, Path(delta).parent if delta else Path(model), data)
    if onnx:
        _onnx(served, Path(output), rows, int8)
    elif sentence_transformers:
        _embedding(served, Path(output), rows)
    else:
        _checkpoint(classifier, Path(output), rows, code=not no_code)


def _checkpoint(classifier: Any, output: Path, rows: Split | None, code: bool) -> None:
    from ..models.portable import MODULE

    difference = classifier.export(output, code, rows)
    _saved(output, rows, f"logits within {difference:.1g} of the trained model's")
    if (output / f"{MODULE}.py").is_file():
        print(
            f"{MODULE}.py in it is code: plain transformers needs trust_remote_code=True for it (--no-code writes none, or refuses; "
            "--onnx and --sentence-transformers need none)"
        )


def _embedding(served: Served, output: Path, rows: Split | None) -> None:
    from ..finetune.shipping.embedding import export_embedding

    difference, layers = export_embedding(served, output, rows)
    _saved(output, rows, f"embeddings{' and logits' * bool(layers)} within {difference:.1g} of the trained model's")
    if not layers:
        print("the head is left out: it is no chain of linear layers")


def _onnx(served: Served, output: Path, rows: Split | None, int8: bool) -> None:
    from ..finetune.shipping.onnx_folder import export_onnx

    found = export_onnx(served, output, rows, int8)
    _saved(output, rows, "compared with the trained model")
    for name, agreement in found.items():
        print(f"{name}: {_said(agreement)}")


def _said(found: Agreement) -> str:
    torch, onnx = found.milliseconds["torch"], found.milliseconds["onnx"]
    points = "" if found.score is None else f", {100 * (found.score - found.trained_score):+.1f} points of accuracy"
    return (
        f"logits within {found.difference:.1g}, {found.same:.1%} of the labels the same{points}; one text on one thread takes "
        f"{onnx:.1f} ms, {onnx / torch:.2f} of torch's {torch:.1f} ms"
    )


def _saved(output: Path, rows: Split | None, what: str) -> None:
    on = f"{len(rows):,} rows of {Path(rows.path).name}" if rows is not None else "texts of random words, as the run's data are gone"
    print(f"saved: {visible(str(output))} ({what}, on {visible(on)})")
