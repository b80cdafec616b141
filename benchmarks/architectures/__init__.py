"""Which architectures of transformers can be trained: every type of its sequence and token classification mappings."""
