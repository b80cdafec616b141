"""``clm-kernels export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import require
from ..escaping import visible
from .console import wrapped
from .predict import DeltaFile, Model
from .quiet import quiet
from .told import Told

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
    push: Annotated[str, typer.Option(help="Repository OWNER/NAME of the hub to upload it to.", show_default=False)] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    no_code: Annotated[
        bool, typer.Option("--no-code", help="Write no Python file; refused where transformers' own class predicts otherwise.")
    ] = False,
) -> Told:
    """Leave what runs without clm-kernels: a checkpoint for plain transformers, an ONNX graph, or an embedding model.

    A delta or an adapter is merged into its base. What was written is read again and compared with the trained model on real
    texts; where it differs, nothing is left.

    Where no class of transformers pools as the head does, a Python file goes along with a checkpoint, for `trust_remote_code=True`.
    """
    require(onnx or not int8, "export", "int8", "given with --onnx", int8)
    require(bool(push) or not public, "export", "public", "given with --push", public)
    require(not (onnx and sentence_transformers), "export", "onnx", "left out with --sentence-transformers", onnx)
    quiet()
    from ..finetune import Classifier
    from ..finetune.disks import filling
    from ..finetune.shipping import push as hub
    from ..finetune.shipping.card import read_told, write_card
    from ..finetune.shipping.rows import real_rows
    from ..models.portable import MODULE

    if push:
        hub.check_repository(push)
    folder = Path(output)
    with filling(folder, "export"):
        classifier = Classifier.load(model, delta)
        served, run = classifier.served(), Path(delta).parent if delta else Path(model)
        read_told(run)  # before anything is written
        rows = real_rows(served, run, data)
        if onnx:
            kind, found = "onnx", _onnx(served, folder, rows, int8)
        elif sentence_transformers:
            kind, found = "embedding", _embedding(served, folder, rows)
        else:
            kind, found = "checkpoint", _checkpoint(classifier, folder, rows, code=not no_code)
        named = f"on {len(rows):,} rows of {Path(rows.path).name}" if rows is not None else ""
        on = named or "on texts of random words (the run's data are gone)"
        lines = [f"Compared with the trained model {on}: {' '.join(line.split())}." for line in found]
        write_card(folder, served, kind, run, lines)
    print(f"saved: {visible(output)}")
    print(f"compared with the trained model {visible(on)}")
    for line in found:
        print(wrapped(f"  {line}"))
    code = f"{MODULE}.py" if (folder / f"{MODULE}.py").is_file() else None
    if code:
        print(f"{code} in it is code: plain transformers needs trust_remote_code=True for it")
        print("(--no-code writes none, or refuses; --onnx and --sentence-transformers need none)")
    pushed = hub.push(folder, push, public) if push else None
    if pushed:
        print(f"pushed: {pushed} ({'public' if public else 'private'}, unless it was there)")
    return Told({"saved": output, "compared": on, "found": found, "code": code, "pushed": pushed}, f"saved: {output}")


def _checkpoint(classifier: Any, output: Path, rows: Split | None, code: bool) -> list[str]:
    return [f"logits within {classifier.export(output, code, rows):.1g}"]


def _embedding(served: Served, output: Path, rows: Split | None) -> list[str]:
    from ..finetune.shipping.embedding import export_embedding

    difference, layers = export_embedding(served, output, rows)
    if not layers:
        return [f"embeddings within {difference:.1g}; the head is left out, as it is no chain of linear layers"]
    return [f"embeddings, and the logits of the head beside them, within {difference:.1g}"]


def _onnx(served: Served, output: Path, rows: Split | None, int8: bool) -> list[str]:
    from ..finetune.shipping.onnx_folder import export_onnx

    return [f"{name}: {_said(agreement)}" for name, agreement in export_onnx(served, output, rows, int8).items()]


def _said(found: Agreement) -> str:
    torch, onnx = found.milliseconds["torch"], found.milliseconds["onnx"]
    points = "" if found.score is None else f", {100 * (found.score - found.trained_score):+.1f} points of {found.scored}"
    return (
        f"logits within {found.difference:.1g}, {found.same:.1%} of the labels the same{points}; "
        f"one text on one thread in {onnx:.1f} ms, {onnx / torch:.2f} of torch's {torch:.1f} ms"
    )
