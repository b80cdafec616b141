"""The stored result as a table of the documentation."""

from __future__ import annotations

from pathlib import Path

RESULT = Path(__file__).parent.parent / "results" / "architectures" / "types.json"
