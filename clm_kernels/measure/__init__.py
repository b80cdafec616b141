"""What a training step takes: measured, predicted, and op by op."""
