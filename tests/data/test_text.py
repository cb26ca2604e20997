"""Captions of digits are true of them, phrasings are held out, and the encoder says what it lacks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from scoresde.data import Data, TextEncoder, captioned, digit_captions, digits
from scoresde.networks import UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.training import make_trainer


def letters(texts: Sequence[str]) -> dict[str, Tensor]:
    """An encoder by letters, of 8 tokens."""
    codes = [[ord(c) for c in text[-8:].rjust(8)] for text in texts]
    tokens = torch.nn.functional.one_hot(torch.tensor(codes) % 32, 32).float()
    return {"tokens": tokens, "mask": torch.tensor(codes) != 32}


def test_captions_are_true_of_their_digits_and_phrasings_are_held_out() -> None:
    named, new = digit_captions(), digit_captions("held_out")
    assert named["a handwritten seven"] == named["the digit 7"] == {7}
    assert not set(named) & set(new)
    assert {next(iter(d)) for d in new.values()} == set(range(10))
    known, held_out = digit_captions("train", "ranges"), digit_captions("held_out", "ranges")
    assert known["an odd number above 4"] == {5, 7, 9}
    assert held_out["some odd number, above six"] == {7, 9}
    # Neither their phrases nor their parity, side and bound are those of training.
    assert not {c for c in known if "even" in c and "below" in c and ("four" in c or "4" in c)}
    assert all(1 <= len(d) <= 4 for d in (*known.values(), *held_out.values()))


def test_images_have_several_captions_each_true_of_it() -> None:
    seen: list[str] = []

    def spy(texts: Sequence[str]) -> dict[str, Tensor]:
        seen.extend(texts)
        return letters(texts)

    data = digits()
    made = captioned(data, spy, copies=3)
    assert made.train.shape == (3 * 1437, 1, 8, 8)
    assert made.num_classes is None
    assert data.train_labels is not None
    truth = digit_captions() | digit_captions("train", "ranges")
    assert all(int(k) in truth[c] for k, c in zip(data.train_labels.repeat(3), seen, strict=False))
    ranges = [len(truth[c]) > 1 or "below" in c or "above" in c for c in seen]
    assert abs(sum(ranges) / len(seen) - 0.25) < 0.03
    assert seen[:1437] != seen[1437:2874]


def test_a_network_is_trained_on_captions_and_samples_by_one() -> None:
    torch.manual_seed(0)
    data = captioned(digits(), letters, copies=1)
    net = UNet((1, 8, 8), channels=8, blocks=1, attention=(-1,), token_size=32, condition_dropout=0.1)
    model = NetworkScore(net, EDMSDE(), EDMPreconditioning())
    trainer = make_trainer(model, data, 2, batch_size=8)
    assert len(list(trainer.steps())) == 2
    caption = {name: value[0] for name, value in letters(["the digit 7"]).items()}
    assert Sampler(EDMHeun(), KarrasGrid(3))(model, 2, **caption).x.shape == (2, 1, 8, 8)


def test_errors_name_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(10, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="toy has not the ten digits as classes"):
        captioned(Data("toy", x, x), letters)
    monkeypatch.setattr("scoresde.data.text.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install scoresde\[text\]"):
        TextEncoder()


@pytest.mark.slow
def test_the_words_of_wordllama_have_their_meaning() -> None:
    pytest.importorskip("wordllama")
    encode = TextEncoder(length=8)
    out = encode(["a handwritten seven", "the digit 7"])
    assert out["tokens"].shape == (2, 8, encode.size)
    assert out["mask"].sum(1).tolist() == [4, 4]
    assert encode("seven")["tokens"].shape == (8, encode.size)

    def mean(text: str) -> Tensor:
        tokens, mask = encode(text).values()
        vector = tokens[mask].mean(0)
        return vector / vector.norm()

    assert mean("seven") @ mean("eight") > 0.3 > mean("seven") @ mean("pen")
    with pytest.raises(ValueError, match="has 0 tokens, expected 1 to 8"):
        encode(" ")
    with pytest.raises(ValueError, match="expected 1 to 8"):
        encode("a very long sentence of many, many words about a digit")
