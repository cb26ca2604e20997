"""Values of configurations against the signatures of what they name."""
