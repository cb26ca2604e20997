"""Certify samplers of other libraries; needs diffusers, k-diffusion or azula, whichever can be imported.

The column "wrong" names checks that found a fault: orders that are not reached, dependence on the batch, the end.
"""

from contextlib import suppress

import scoresde
from scoresde.certificate import ring, sampler_table
from scoresde.certificate.adapters import AzulaSampler, DiffusersScheduler
from scoresde.sampling import DPMSolverPP, Sampler, UniformLogSNR
from scoresde.sde import EDMSDE

samplers = {"own 2M": lambda steps: Sampler(DPMSolverPP(2), UniformLogSNR(steps))}
with suppress(ImportError):
    from diffusers import DPMSolverMultistepScheduler

    samplers["diffusers 2M"] = DiffusersScheduler(lambda: DPMSolverMultistepScheduler(timestep_spacing="trailing"))
with suppress(ImportError):
    from k_diffusion.sampling import sample_dpmpp_2m

    samplers["k-diffusion 2M"] = sample_dpmpp_2m
with suppress(ImportError):
    from azula.denoise import DiracPosterior
    from azula.noise import VESchedule
    from azula.sample import REABSampler

    samplers["azula REAB-2"] = AzulaSampler(REABSampler, VESchedule(0.002, 10.0), DiracPosterior)

# Levels as large as those of diffusers' schedule have to be within the SDE's.
prior, claims = ring(EDMSDE(0.002, 200.0)), dict.fromkeys(samplers, 2)
checks = ["order", "error at 10", "error at 20", "mates", "alone", "end"]
frame = scoresde.certify(prior, samplers=samplers, claims=claims, checks=checks, samples=256, progress=False)
for cells in sampler_table(frame):
    print("  ".join(cell.ljust(16) for cell in cells))
for _, row in frame[(frame["passed"] == "no") | (frame["failure"] != "")].iterrows():
    print(f"{row['sampler']}, {row['check']}: {row['finding'] or row['failure']}")
