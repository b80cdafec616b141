"""How much the loss depends on a unit: the head is warmed up, then rows, columns or blocks are scored."""
