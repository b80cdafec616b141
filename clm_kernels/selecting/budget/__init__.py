"""What training takes, and how a number of entries or of FLOPs is spent on the best units."""
