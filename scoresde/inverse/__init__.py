"""Inverse problems: what is measured of a sample, samplers of the posterior, and the posterior where it is known."""

from scoresde.inverse.adjoint import check_adjoint
from scoresde.inverse.ald import ALD
from scoresde.inverse.blur import Blur, GaussianBlur, motion_kernel
from scoresde.inverse.choices import (
    Colourisation,
    Compressed,
    Deblurring,
    Denoising,
    GaussianDeblurring,
    Inpainting,
    Overexposed,
    Phaseless,
    ProblemChoice,
    RandomInpainting,
    Sensing,
    SuperResolution,
    Tomography,
    Undersampling,
    Unmeasured,
)
from scoresde.inverse.clipping import Clipping
from scoresde.inverse.compressed_sensing import CompressedSensing, RandomProjection
from scoresde.inverse.correlated import CorrelatedNoise, decorrelated
from scoresde.inverse.counted import Cost, CountedModel
from scoresde.inverse.daps import DAPS
from scoresde.inverse.ddnm import DDNM
from scoresde.inverse.ddrm import DDRM
from scoresde.inverse.deepinv import from_deepinv
from scoresde.inverse.diffpir import DiffPIR
from scoresde.inverse.downsampling import Downsampling
from scoresde.inverse.dps import DPS
from scoresde.inverse.exact import ExactPosterior
from scoresde.inverse.fourier import FourierSampling, line_mask
from scoresde.inverse.function import FunctionOperator, NonlinearOperator
from scoresde.inverse.grey import GreyScale
from scoresde.inverse.ilvr import ILVR
from scoresde.inverse.masks import Mask
from scoresde.inverse.matrix import MatrixOperator
from scoresde.inverse.mcg import MCG
from scoresde.inverse.method import FieldMethod, Method, PosteriorModel, SolverMethod
from scoresde.inverse.mmps import MMPS
from scoresde.inverse.noise import GaussianNoise, MeasurementNoise, NoNoise
from scoresde.inverse.operator import LinearOperator, Operator, SingularValues
from scoresde.inverse.phase import PhaseRetrieval
from scoresde.inverse.pigdm import PiGDM
from scoresde.inverse.pnp_dm import PnPDM
from scoresde.inverse.poisson import PoissonNoise
from scoresde.inverse.problem import Measurement, Problem
from scoresde.inverse.projection import Projection
from scoresde.inverse.quality import central_coverage, central_interval, psnr, residual_ratio
from scoresde.inverse.quantisation import BlockQuantisation
from scoresde.inverse.radon import Radon
from scoresde.inverse.red_diff import REDDiff
from scoresde.inverse.repaint import RePaint
from scoresde.inverse.restored import Restored, restore
from scoresde.inverse.separable import SeparableOperator
from scoresde.inverse.shown import ShownMeasurement, as_images
from scoresde.inverse.tds import TDS
from scoresde.inverse.tmpd import TMPD
from scoresde.inverse.whole_gradient import WholeGradient

__all__ = [
    "ALD",
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "ILVR",
    "MCG",
    "MMPS",
    "TDS",
    "TMPD",
    "BlockQuantisation",
    "Blur",
    "Clipping",
    "Colourisation",
    "Compressed",
    "CompressedSensing",
    "CorrelatedNoise",
    "Cost",
    "CountedModel",
    "Deblurring",
    "Denoising",
    "DiffPIR",
    "Downsampling",
    "ExactPosterior",
    "FieldMethod",
    "FourierSampling",
    "FunctionOperator",
    "GaussianBlur",
    "GaussianDeblurring",
    "GaussianNoise",
    "GreyScale",
    "Inpainting",
    "LinearOperator",
    "Mask",
    "MatrixOperator",
    "Measurement",
    "MeasurementNoise",
    "Method",
    "NoNoise",
    "NonlinearOperator",
    "Operator",
    "Overexposed",
    "PhaseRetrieval",
    "Phaseless",
    "PiGDM",
    "PnPDM",
    "PoissonNoise",
    "PosteriorModel",
    "Problem",
    "ProblemChoice",
    "Projection",
    "REDDiff",
    "Radon",
    "RandomInpainting",
    "RandomProjection",
    "RePaint",
    "Restored",
    "Sensing",
    "SeparableOperator",
    "ShownMeasurement",
    "SingularValues",
    "SolverMethod",
    "SuperResolution",
    "Tomography",
    "Undersampling",
    "Unmeasured",
    "WholeGradient",
    "as_images",
    "central_coverage",
    "central_interval",
    "check_adjoint",
    "decorrelated",
    "from_deepinv",
    "line_mask",
    "motion_kernel",
    "psnr",
    "residual_ratio",
    "restore",
]
