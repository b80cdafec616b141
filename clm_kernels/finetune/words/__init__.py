"""Which words carry the gradient: their part of it early and late in training, and in single sentences."""
