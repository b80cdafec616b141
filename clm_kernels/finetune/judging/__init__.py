"""How good a classifier is, and how far its probabilities can be trusted: numbers of gold, predicted and probabilities."""
