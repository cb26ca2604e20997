"""Sentences as the conditions of samples, encoded as those of a run's training data were."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.data import Data, DataInfo, TextEncoder
from scoresde.guidance import Given
from scoresde.options.errors import ConfigError
from scoresde.runs.conditions import AnyModel, other_conditions
from scoresde.score import ScoreModel

__all__ = ["away_from", "text_conditions"]


def text_conditions(
    model: AnyModel, data: Data | DataInfo, n: int, texts: Sequence[str], key: str = "text"
) -> dict[str, Tensor]:
    """The tokens of sentences for n samples in turn, on the model's device.

    Args:
        model: The model.
        data: Its data, or what is known of them.
        n: Number of samples.
        texts: The sentences.
        key: Name of the option, for messages.

    Raises:
        ConfigError: A model that takes no tokens, or more than them, tokens of an unknown encoder, or a sentence that
            is empty or too long.
        ImportError: The encoder is not installed.
    """
    taken = other_conditions(model)
    if taken != ("tokens",) or model.classes is not None:
        own = ", ".join([*(["labels"] if model.classes is not None else []), *taken]) or "no conditions"
        raise ConfigError(
            f"{key} is for models of tokens alone, such as experiment=digits_text, and this one takes {own}"
        )
    if data.text is None:
        raise ConfigError(
            f"the run does not say which encoder made its tokens, so that {key} cannot be encoded alike: give "
            "condition=FILE.npz with arrays tokens and mask"
        )
    try:
        encode = TextEncoder.of(data.text)
        found = encode(list(texts))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    chosen = torch.arange(n) % len(texts)
    return {name: values[chosen].to(model.device) for name, values in found.items()}


def away_from(model: ScoreModel, data: Data | DataInfo, text: str) -> ScoreModel:
    """The model given a sentence, to be guided away from it.

    Args:
        model: The model.
        data: Its data, or what is known of them.
        text: The sentence.

    Raises:
        ConfigError: As for `text_conditions`.
        ImportError: As for it.
    """
    return Given(model, **{name: v[0] for name, v in text_conditions(model, data, 1, [text], "negative").items()})
