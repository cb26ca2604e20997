"""Digits by text: a U-Net that attends to the words of a caption, and phrasings that it was not trained on.

`python examples/text_to_digit.py STEPS` trains with so many steps, 800 if not given; it needs `scoresde[text]`.
"""

import sys

import torch
from sklearn.svm import SVC

from scoresde.data import TextEncoder, captioned, digit_captions, digits
from scoresde.guidance import ClassifierFree
from scoresde.networks import UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.training import fit

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 800
encode, plain = TextEncoder(), digits()
data = captioned(plain, encode)
torch.manual_seed(0)
network = UNet(data.shape, channels=24, blocks=1, attention=(-1,), token_size=encode.size, condition_dropout=0.1)
model = NetworkScore(network, EDMSDE(sigma_max=20.0), EDMPreconditioning())
print(fit(model, data, steps, progress=False))

judge = SVC().fit(plain.train.flatten(1), plain.train_labels)
print(f"the judge is right on {judge.score(plain.test.flatten(1), plain.test_labels):.3f} of the held-out digits")
for split, kind in (("held_out", "digits"), ("held_out", "ranges")):
    captions = digit_captions(split, kind)
    texts = list(captions) * (240 // len(captions))
    for scale in (1.0, 3.0):
        guided = ClassifierFree(model, scale)
        out = Sampler(EDMHeun(), KarrasGrid(12))(guided, len(texts), seed=0, **encode(texts))
        found = judge.predict(plain.transform.decode(out.x).flatten(1))
        right = torch.tensor([int(d) in captions[text] for d, text in zip(found, texts, strict=True)]).double()
        right = right.view(-1, len(captions)).mean(0)  # by caption, whose samples are not independent
        print(f"{kind}, scale {scale}: {right.mean():.3f} ± {right.std() / len(right) ** 0.5:.3f} right")
