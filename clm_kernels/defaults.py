"""Words and numbers that options share with what they are options of; here, because neither torch nor transformers is needed.

The evidence for the numbers is in benchmarks/tasks/NOTES.md.
"""

from __future__ import annotations

UNITS = ("rows", "columns", "blocks", "heads", "neurons", "layers", "embeddings")  # what a budget buys
LAYERS = ("all", "upper half", "upper third")
POOLINGS = ("native", "last", "mean", "max", "cls")
LABELS = "labels"  # column of the lists of labels
MERGE_BY = ("score", "saving")

BLOCK = 8  # height and width
DENSITY = 0.02  # of rows, columns and all else that is not named below
DENSITY_BLOCKS = 0.1  # of blocks that are drawn by chance
DENSITY_GROUPS = 1 / 8

BATCH_SIZE = 32
MAX_LENGTH = 256  # tokens of a text
LENGTH = 128  # of a text, padding included, whose training step is measured or predicted
ACTIVE_SHARE = 0.25  # of the tokens, where a backward leaves some out and nothing is run that tells how many
SEED = 42
LEAST_SHARE = 0.1  # of tokens and examples: what has been forgotten comes back
EXAMPLES = 512  # that score the units, and at least as many that warm up the head
