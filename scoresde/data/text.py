"""Sentences as tokens that networks attend to, by an encoder whose weights come inside a Python package."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.text_info import TextInfo

__all__ = ["TextEncoder"]

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_NAME = "wordllama l2_supercat_256"
_WORDS = "tokenizers/l2_supercat_tokenizer_config.json"


class TextEncoder:
    """Vectors of the words of a sentence, by the tokens and embeddings of WordLlama.

    The embeddings, of length 256, are those of the package wordllama, distilled from large language models. They know
    neither order nor context: the network that attends to them sees a set of words. Nothing is downloaded.

        encode = TextEncoder()
        tokens = encode(["a handwritten seven"])            # tokens (1, 16, 256), mask (1, 16)
        sampler(model, 4, seed=0, **encode("the digit 7"))  # the same caption for all four

    Args:
        length: Number of tokens to which every sentence is filled up; those beyond its end are not in the mask.

    Attributes:
        size: Length of a token, 256; the `token_size` of a network.

    Raises:
        ImportError: wordllama is not installed.
        ValueError: A length below 1.

    References:
        Ramesh et al. 2022, Hierarchical text-conditional image generation with CLIP latents, for text to image in two
            stages, as in examples/unclip_digits.py: https://arxiv.org/abs/2204.06125
    """

    @checked
    def __init__(self, length: int = 16) -> None:
        if length < 1:
            raise ValueError(f"length is {length}, expected at least one token")
        found = find_spec("wordllama")
        if found is None or found.origin is None:
            raise ImportError("text needs the package wordllama: pip install scoresde[text]")
        from tokenizers import Tokenizer

        # The files themselves: importing the package sets the level of everybody's log.
        folder = Path(found.origin).parent
        for name in (_WEIGHTS, _WORDS):
            if not (folder / name).is_file():
                raise ImportError(f"wordllama has no file {name} here: pip install 'wordllama>=0.4.0.post1'")
        self.length = length
        self._words = Tokenizer.from_file(str(folder / _WORDS))
        self._words.no_padding()
        (self._table,) = load_file(folder / _WEIGHTS).values()
        self.size = int(self._table.shape[1])

    @classmethod
    def of(cls, info: TextInfo) -> "TextEncoder":
        """The encoder that made the tokens of a data set.

        Raises:
            ImportError: wordllama is not installed.
            ValueError: Another encoder.
        """
        if info.encoder != _NAME:
            raise ValueError(f"the tokens are of the encoder {info.encoder!r}, and this version has {_NAME!r} alone")
        return cls(info.length)

    @property
    def info(self) -> TextInfo:
        """What a data set keeps of its encoder."""
        return TextInfo(_NAME, self.length)

    def __call__(self, texts: str | Sequence[str]) -> dict[str, Tensor]:
        """The conditions `tokens` `(B, length, size)` float32 and `mask` `(B, length)` of B sentences.

        Args:
            texts: The sentences; one alone gives those of one sample, without the first dimension, which hold for all.

        Raises:
            ValueError: A sentence without words, or with more tokens than `length`.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        tokens = torch.zeros(len(several), self.length, self.size)
        mask = torch.zeros(len(several), self.length, dtype=torch.bool)
        for row, text in enumerate(several):
            indices = self._words.encode(text, add_special_tokens=False).ids if text.strip() else []
            if not 0 < len(indices) <= self.length:
                raise ValueError(
                    f"{text!r} has {len(indices)} tokens, expected 1 to {self.length}: change it or length"
                )
            tokens[row, : len(indices)] = self._table[torch.tensor(indices)].float()
            mask[row, : len(indices)] = True
        whole = {"tokens": tokens, "mask": mask}
        return {name: value[0] for name, value in whole.items()} if isinstance(texts, str) else whole
