"""Certificates: samplers held against what is known exactly, of posteriors and of the probability flow."""

from scoresde.certificate.posterior import PosteriorExam
from scoresde.certificate.posterior_frame import POSTERIOR_COLUMNS, posterior_frame, posterior_table
from scoresde.certificate.posteriors import PosteriorCertificate
from scoresde.certificate.priors import digits, fitted, read_mixture, ring, write_mixture
from scoresde.certificate.several import Exact, Function

__all__ = [
    "POSTERIOR_COLUMNS",
    "Exact",
    "Function",
    "PosteriorCertificate",
    "PosteriorExam",
    "digits",
    "fitted",
    "posterior_frame",
    "posterior_table",
    "read_mixture",
    "ring",
    "write_mixture",
]
