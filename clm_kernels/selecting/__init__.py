"""From a labelled dataset and a model to a Selection: scores of units, then a budget that is spent on the best."""
