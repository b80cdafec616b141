"""All that is known of the models of transformers: structure, attention, pooling, heads, replay, packing, recomputing."""
