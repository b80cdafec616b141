"""The comparison: tasks x methods x seeds through the same training loop, kept as JSON, shown as tables and pictures.

``python -m benchmarks.tasks --help``; what is compared and why so stands in NOTES.md.
"""
