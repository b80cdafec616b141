"""Several processes that train one model, as torchrun starts them: they begin alike, share every step, and end together."""
