"""Captions of digits, made of their labels: phrasings to train on, and others to test with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.base import Data
from scoresde.numerics.random import SampleNoise, Stream

__all__ = ["captioned", "digit_captions"]

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PHRASES = {
    "train": (
        "{number}",
        "a handwritten {number}",
        "the digit {number}",
        "the number {number}",
        "a picture of the digit {number}",
        "{number} written with a pen",
        "this shows the number {number}",
    ),
    "held_out": (
        "a drawing of {number}",
        "please write a {number} for me",
        "an image of a handwritten number: {number}",
        "{number}, by hand",
    ),
}
_RANGES = {
    "train": ("an {parity} number {side} {number}", "a digit that is {parity} and {side} {number}"),
    "held_out": ("some {parity} number, {side} {number}",),
}
# Kept from training: the first is the example of a phrase whose parts are known, and its whole is not.
_NEW = (("even", "below", 4), ("odd", "above", 6), ("even", "above", 5), ("odd", "below", 4))


def _ranges(split: str) -> list[tuple[str, str, int, frozenset[int]]]:
    """Parity, side and bound of the ranges of a split, and the one to four digits that each has."""
    found = []
    for parity, rest in (("even", 0), ("odd", 1)):
        for side, sign in (("below", 1), ("above", -1)):
            for bound in range(10):
                digits = frozenset(d for d in range(10) if d % 2 == rest and sign * d < sign * bound)
                if 1 <= len(digits) <= 4 and ((parity, side, bound) in _NEW) == (split == "held_out"):
                    found.append((parity, side, bound, digits))
    return found


@checked
def digit_captions(
    split: Literal["train", "held_out"] = "train", kind: Literal["digits", "ranges"] = "digits"
) -> dict[str, frozenset[int]]:
    """All captions of a split, and the digits that each is true of.

    >>> digit_captions()["a handwritten seven"], digit_captions("held_out", "ranges")["some even number, below four"]
    (frozenset({7}), frozenset({0, 2}))

    Args:
        split: Phrasings to train on, or others.
        kind: Captions that name a digit, by its word or its numeral; or such of even and odd digits below and above
            another, of which `held_out` has other bounds than `train`.
    """
    names = [(d, name) for d in range(10) for name in (_WORDS[d], str(d))]
    if kind == "digits":
        return {phrase.format(number=name): frozenset({d}) for phrase in _PHRASES[split] for d, name in names}
    return {
        phrase.format(parity=parity, side=side, number=name): digits
        for phrase in _RANGES[split]
        for parity, side, bound, digits in _ranges(split)
        for d, name in names
        if d == bound
    }


@checked
def captioned(
    data: Data, encode: Callable[[Sequence[str]], Mapping[str, Tensor]], copies: int = 4, seed: int = 0
) -> Data:
    """Digits with captions for labels, of which every image has several.

    A quarter of the captions are ranges. The classes are left out, so that the captions are the only condition.

    Args:
        data: Digits with labels from 0 to 9.
        encode: Makes `tokens` and `mask` of sentences, such as `TextEncoder`.
        copies: Number of captions of an image; the training data have as many copies of it.
        seed: The captions of image i are functions of the seed and of i.

    Raises:
        ValueError: Data without the ten classes, or less than one copy.
    """
    if data.train_labels is None or data.test_labels is None or data.num_classes != 10:
        raise ValueError(f"{data.name} has not the ten digits as classes, which captions are made of")
    if copies < 1:
        raise ValueError(f"copies is {copies}, expected at least 1")
    labels = torch.cat((data.train_labels.repeat(copies), data.test_labels))
    every = [digit_captions("train", kind) for kind in ("digits", "ranges")]
    choices = [[[c for c, digits in captions.items() if d in digits] for d in range(10)] for captions in every]
    draws = SampleNoise(seed, torch.arange(len(labels)), (2,), torch.float64, stream=Stream.CAPTIONS).uniform().tolist()
    texts = []
    for label, (kind, place) in zip(labels.tolist(), draws, strict=True):
        among = choices[kind < 0.25][label]
        texts.append(among[int(place * len(among))])
    made, count = encode(texts), copies * len(data.train)
    return replace(
        data,
        train=data.train[:].repeat(copies, *[1] * len(data.shape)),
        train_labels=None,
        test_labels=None,
        num_classes=None,
        class_names=None,
        rows=None,
        train_conditions={name: value[:count] for name, value in made.items()},
        test_conditions={name: value[count:] for name, value in made.items()},
        text=getattr(encode, "info", None),
    )
