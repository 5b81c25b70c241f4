"""Matrix products on a CPU: the faster of the two libraries that torch brings.

torch multiplies float32 matrices with MKL where it has it, and MKL keeps to AVX2 on processors that are not Intel's.
oneDNN, which torch uses for bfloat16 and convolutions, looks at what the processor can do instead: with AVX-512 on a
Zen 5 it is twice as fast. The arithmetic is the same float32; only the order of a sum differs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

BLOCK, SMALLEST_BLOCK = 256, 64  # rows; fewer than the smallest are left to MKL


@lru_cache
def onednn_is_faster() -> bool:
    """Whether this CPU has AVX-512 that MKL leaves unused, and torch has oneDNN."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _processor()


def _processor() -> str:
    information = Path("/proc/cpuinfo")  # Windows says it without
    return information.read_text() if information.exists() else platform.processor()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b by oneDNN: (M, K), (N, K), (N,) → (M, N)."""
    parts = [torch.ops.mkldnn._linear_pointwise(part, weight, bias, "none", [], "") for part in _blocks(x)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[: len(x)]


def _blocks(x: Tensor) -> list[Tensor]:
    """Rows in blocks of 256, the last filled with zeros to a multiple of 64.

    oneDNN writes a program for every shape it meets, half a megabyte that it keeps and a millisecond; responses come in
    all lengths. In blocks there are only four shapes.
    """
    *whole, rest = x.split(BLOCK)
    missing = -len(rest) % SMALLEST_BLOCK
    return [*whole, torch.nn.functional.pad(rest, (0, 0, 0, missing)) if missing else rest]


class Linear(torch.autograd.Function):
    """y = x Wᵀ + b, whose gradients are products, too: dx = dy W, dW = dyᵀ x, db = Σ dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(M, K), (N, K), (N,) → (M, N)."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of x, W and b, each only if it is asked for."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _product(dy, weight.t()) if wants_x else None,
            _weight_gradient(x, dy, weight) if wants_weight else None,
            dy.sum(0) if wants_bias else None,
        )


def _weight_gradient(x: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
    """dyᵀ x, (N, K), summed over blocks of rows; in memory it lies as W does, for optimizers expect that."""
    sides = (dy, x) if weight.is_contiguous() else (x, dy)
    total: Tensor | None = None
    for left, right in zip(*map(_blocks, sides), strict=True):
        part = torch.ops.mkldnn._linear_pointwise(left.t(), right.t(), None, "none", [], "")
        total = part if total is None else total.add_(part)
    return total if weight.is_contiguous() else total.t()


def suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN may take a product over: float32 matrices on the CPU, with enough rows."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.dtype == torch.float32 for t in tensors)
    sized = x.dim() >= 2 and weight.dim() == 2 and weight.numel() > 0 and x[..., 0].numel() >= SMALLEST_BLOCK
    return plain and sized and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b, (..., K) → (..., N), with gradients where they are wanted."""
    rows = x.flatten(0, -2)
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    y = Linear.apply(rows, weight, bias) if recorded else _product(rows, weight, bias)
    return y.view(*x.shape[:-1], -1)


class OneDNNProducts(TorchFunctionMode):
    """Inside ``with OneDNNProducts():`` the linear layers of any model multiply with oneDNN.

    They are `torch.nn.Linear`, and `Conv1D` as GPT-2 has it. Everything else, other dtypes and other devices are as
    they were. The backward pass follows the forward pass, also after the `with` has ended.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Take over `linear(x, W, b)` and `addmm(b, x, W)`."""
        if not kwargs and func is torch.nn.functional.linear:
            x, weight, bias = (*args, None)[:3]
            if suits(x, weight, bias):
                return linear(x, weight, bias)
        if not kwargs and func is torch.addmm and args[0].dim() == 1:
            bias, x, weight = args
            if suits(x, weight.t(), bias):
                return linear(x, weight.t(), bias)
        return func(*args, **(kwargs or {}))


def faster_products(device: torch.device) -> AbstractContextManager:
    """`OneDNNProducts` on a CPU where it is the faster library; a context that does nothing elsewhere."""
    return OneDNNProducts() if device.type == "cpu" and onednn_is_faster() else nullcontext()
