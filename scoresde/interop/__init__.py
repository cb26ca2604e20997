"""Networks of others: the names and settings of their checkpoints, as those of this package."""
