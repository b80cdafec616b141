"""What a budget buys: rows, columns, blocks, coupled units, embedding rows, dealt groups, single elements."""
