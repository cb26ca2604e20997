"""Attention in bfloat16 on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.networks.attention import softmax_attention


def test_attention_of_bfloat16_has_the_accuracy_of_the_fused_kernel() -> None:
    torch.manual_seed(0)
    exact = [s * torch.randn(2, 2, 40, 16).bfloat16().double() for s in (2.0, 2.0, 1.0)]
    probe = torch.randn(2, 2, 40, 16).bfloat16().double()

    def results(function: object, dtype: torch.dtype) -> list[Tensor]:
        inputs = [x.to(dtype).requires_grad_() for x in exact]
        out = function(*inputs)  # type: ignore[operator]
        return [out, *torch.autograd.grad(out, inputs, probe.to(dtype))]

    expected = results(F.scaled_dot_product_attention, torch.float64)
    fused = results(F.scaled_dot_product_attention, torch.bfloat16)
    for ours, theirs, truth in zip(results(softmax_attention, torch.bfloat16), fused, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - truth).norm() < 1.5 * (theirs.double() - truth).norm()
    for ours, truth in zip(results(softmax_attention, torch.float64), expected, strict=True):
        assert torch.equal(ours, truth)
