"""Digits by text in two stages as in unCLIP (Ramesh et al. 2022): a prior of image embeddings given text, a decoder."""

from dataclasses import replace
from sys import argv

import torch
from sklearn.neural_network import MLPClassifier

from scoresde.data import TextEncoder, captioned, digit_captions, digits
from scoresde.guidance import ClassifierFree
from scoresde.networks import MLP, UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.training import fit

steps, encode, data = int(argv[1]) if len(argv) > 1 else 500, TextEncoder(), digits()  # needs scoresde[text]
flat = [x.flatten(1).float() / 16 for x in (data.train, data.test)]
judge = MLPClassifier(100, random_state=1).fit(flat[0], data.train_labels)
small = MLPClassifier(16, activation="tanh", random_state=0, max_iter=400).fit(flat[0], data.train_labels)
weights, bias = (torch.tensor(v[0]).float() for v in (small.coefs_, small.intercepts_))
images = [torch.tanh(x @ weights + bias) for x in flat]  # the embeddings: features of a classifier
texts = captioned(data, lambda c: {"vector": encode(c)["tokens"].sum(1)}).train_conditions
torch.manual_seed(0)
edm, sampler = (EDMSDE(sigma_max=20.0), EDMPreconditioning()), Sampler(EDMHeun(), KarrasGrid(12))
prior = NetworkScore(MLP((16,), vector_size=encode.size, condition_dropout=0.1), *edm)
print(fit(prior, images[0].repeat(4, 1), 2 * steps, conditions=texts, progress=False))
decoder = NetworkScore(UNet(data.shape, channels=24, blocks=1, vector_size=16, condition_dropout=0.1), *edm)
given = {f"{part}_conditions": {"vector": z} for part, z in zip(("train", "test"), images, strict=True)}
print(fit(decoder, replace(data, **given), steps, progress=False))
captions = list((truth := digit_captions("held_out")).keys())
for scale in (1.0, 3.0):
    z = sampler(ClassifierFree(prior, scale), len(captions), vector=encode(captions)["tokens"].sum(1)).x
    x = sampler(ClassifierFree(decoder, 1.5), len(captions), seed=1, vector=z).x
    found = judge.predict(data.transform.decode(x).flatten(1) / 16)
    right = torch.tensor([int(d) in truth[text] for d, text in zip(found, captions, strict=True)]).double()
    print(f"scale {scale} of the prior: {right.mean():.3f} ± {right.std() / len(right) ** 0.5:.3f} right")
