"""What is trained: a file a method. To add one: write it beside `base`, and name it here."""

from ..table import Table
from .base import Method, Prepared

__all__ = ["METHODS", "Method", "Prepared"]

METHODS: Table[Method] = Table(
    __name__, {"sparse": "sparse:Sparse", "full": "full:Full", "head": "head:Head", "lora": "lora:LowRank"}
)
