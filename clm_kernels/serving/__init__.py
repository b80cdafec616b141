"""A trunk and its deltas: many classifiers on one base model in memory."""
