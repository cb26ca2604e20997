"""Certify samplers of other libraries; needs diffusers, k-diffusion (pip install --no-deps) or azula, what is there.

Each is held against the exact probability flow: does it have the order that it claims, are its samples independent of
their batch, where does it end? The table names in the column "wrong" what was found.
"""

from contextlib import suppress

import scoresde
from scoresde.certificate import ring, sampler_table
from scoresde.certificate.adapters import AzulaSampler, DiffusersScheduler
from scoresde.sampling import DPMSolverPP, Sampler, UniformLogSNR
from scoresde.sde import EDMSDE

samplers = {"own 2M": lambda steps: Sampler(DPMSolverPP(2), UniformLogSNR(steps))}
claims = {"own 2M": 2}

with suppress(ImportError):
    from diffusers import DPMSolverMultistepScheduler

    samplers["diffusers 2M"] = DiffusersScheduler(lambda: DPMSolverMultistepScheduler(timestep_spacing="trailing"))
    claims["diffusers 2M"] = 2

with suppress(ImportError):
    from k_diffusion.sampling import sample_dpmpp_2m, sample_dpmpp_3m_sde

    samplers |= {"k-diffusion 2M": sample_dpmpp_2m, "k-diffusion 3M SDE": sample_dpmpp_3m_sde}
    claims |= {"k-diffusion 2M": 2}

with suppress(ImportError):
    from azula.denoise import DiracPosterior
    from azula.noise import VESchedule
    from azula.sample import REABSampler

    samplers["azula REAB-2"] = AzulaSampler(REABSampler, VESchedule(0.002, 10.0), DiracPosterior)
    claims["azula REAB-2"] = 2

# Levels as large as those of diffusers' schedule have to be within the SDE's.
prior = ring(EDMSDE(0.002, 200.0))
checks = ["order", "error at 10", "error at 20", "mates", "alone", "repeats", "end"]
frame = scoresde.certify(prior, samplers=samplers, claims=claims, checks=checks, samples=256, progress=False)
for row in sampler_table(frame):
    print("  ".join(cell.ljust(18) for cell in row))
for _, row in frame[(frame["passed"] == "no") | (frame["failure"] != "")].iterrows():
    print(f"{row['sampler']}, {row['check']}: {row['finding'] or row['failure']}")
