"""Run directories, and what the commands do with them."""
