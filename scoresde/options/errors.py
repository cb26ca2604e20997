"""Errors of configurations."""

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """A configuration that cannot be used."""
