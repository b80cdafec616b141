"""A trunk and its deltas: many classifiers, one forward; in Python and over HTTP."""
