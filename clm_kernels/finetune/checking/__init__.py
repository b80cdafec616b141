"""What is wrong with data before anything is trained on it: `parts` holds what was read, each other module finds some of it."""
