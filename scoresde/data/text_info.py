"""Which encoder made the tokens of data, so that sentences can be encoded alike later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TextInfo"]


@dataclass(frozen=True)
class TextInfo:
    """The encoder of the tokens of a data set.

    Args:
        encoder: Name of the encoder, which stands for its vocabulary and its embeddings.
        length: Number of tokens to which every sentence is filled up.
    """

    encoder: str
    length: int

    def to_plain(self) -> dict[str, Any]:
        """The facts as values that JSON has."""
        return {"encoder": self.encoder, "length": self.length}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TextInfo":
        """The inverse of `to_plain`.

        Raises:
            ValueError: A key that is missing, or a value of another kind.
        """
        encoder, length = plain.get("encoder"), plain.get("length")
        if not isinstance(encoder, str) or type(length) is not int or not 0 < length <= 4096:
            raise ValueError(f"{dict(plain)!r} describes no encoder of text")
        return cls(encoder, length)
