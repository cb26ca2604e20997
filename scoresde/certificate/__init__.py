"""Certificates: samplers held against what is known exactly, of posteriors and of the probability flow."""

from scoresde.extras import need as _need

_need("scoresde.certificate", "matplotlib", "PIL", "pandas")

from scoresde.certificate.certify import certify, prior_of
from scoresde.certificate.contenders import Contender, SigmaDenoiser, SigmaFunction, contender
from scoresde.certificate.posterior import PosteriorExam
from scoresde.certificate.posterior_frame import (
    EXACT,
    POSTERIOR_COLUMNS,
    PosteriorCell,
    posterior_frame,
    posterior_table,
)
from scoresde.certificate.posteriors import PosteriorCertificate
from scoresde.certificate.priors import digits, fitted, read_mixture, ring, write_mixture
from scoresde.certificate.sampler import CHECKS, SamplerExam
from scoresde.certificate.samplers import (
    SAMPLER_COLUMNS,
    SamplerCell,
    SamplerCertificate,
    sampler_frame,
    sampler_table,
)
from scoresde.certificate.several import Exact, Function
from scoresde.certificate.verdicts import Verdict

__all__ = [
    "CHECKS",
    "EXACT",
    "POSTERIOR_COLUMNS",
    "SAMPLER_COLUMNS",
    "Contender",
    "Exact",
    "Function",
    "PosteriorCell",
    "PosteriorCertificate",
    "PosteriorExam",
    "SamplerCell",
    "SamplerCertificate",
    "SamplerExam",
    "SigmaDenoiser",
    "SigmaFunction",
    "Verdict",
    "certify",
    "contender",
    "digits",
    "fitted",
    "posterior_frame",
    "posterior_table",
    "prior_of",
    "read_mixture",
    "ring",
    "sampler_frame",
    "sampler_table",
    "write_mixture",
]
