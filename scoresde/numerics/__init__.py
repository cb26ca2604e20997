"""Numerical ground that knows tensors only: random streams, ODE integration, traces, tableaus and transforms."""
