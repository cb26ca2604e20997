#!/usr/bin/env bash
# An environment variable overrides the number of accumulation steps that a program gives to Accelerator.
#
# Expected: an explicit argument wins over the environment, as `mixed_precision` and `cpu` of the same constructor do.
# Happens: with ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4, which `accelerate launch` sets from a saved configuration,
#   `Accelerator(gradient_accumulation_steps=1)` has 4, without a word. Code that then uses `accumulate`, or scales its
#   loss by that number, takes an optimiser step every fourth batch.
# Versions: accelerate 1.15.0 with torch 2.13.0.
# Source: Accelerator.__init__ in accelerate/accelerator.py reads the variable with the argument as its default.
# What to do: give a GradientAccumulationPlugin, which is taken as it is, or do not let the environment in: scoresde
#   trains with PartialState and its own backward pass.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 accelerate==1.15.0 numpy==2.4.6
ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 ACCELERATE_MIXED_PRECISION=bf16 env/bin/python - <<'PYTHON'
import accelerate
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

print("accelerate", accelerate.__version__)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1, mixed_precision="no")
# Read at once: all accelerators of a process share the number.
argument, precision = accelerator.gradient_accumulation_steps, accelerator.mixed_precision
accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1))
plugin = accelerator.gradient_accumulation_steps
print("asked for 1 step by an argument:", argument)
print("asked for 1 step by a plugin:", plugin)
print("asked for mixed_precision='no', environment bf16:", precision)
assert argument == 4, "the argument wins now: see the head of this file"
assert plugin == 1
assert precision == "no"
PYTHON
