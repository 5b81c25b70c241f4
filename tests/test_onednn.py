"""Products by oneDNN are products: values, gradients, which layers are taken over and which are left alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pytorch_utils import Conv1D

from course_helpers import onednn
from course_helpers.onednn import OneDNNProducts

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch has no oneDNN",
)
LAYERS = {
    "linear": lambda k, n: torch.nn.Linear(k, n),
    "linear without bias": lambda k, n: torch.nn.Linear(k, n, bias=False),
    "Conv1D": lambda k, n: Conv1D(n, k),
}


def run(layer, x, upstream, products):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    if products:
        with OneDNNProducts():
            y = layer(x)
    else:
        y = layer(x)
    y.backward(upstream)
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@needs_onednn
@pytest.mark.parametrize("kind", LAYERS)
@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(1, 130), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_values_and_gradients_are_those_of_exact_products(kind, batch, width, k, n, seed):
    torch.manual_seed(seed)
    layer, x, upstream = LAYERS[kind](k, n), torch.randn(batch, width, k), torch.randn(batch, width, n)
    found = run(layer, x, upstream, products=True)
    exact = run(layer.double(), x.double(), upstream.double(), products=False)
    for ours, truth in zip(found, exact, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == truth.shape
        assert torch.allclose(ours.double(), truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max() + 1e-3))


@needs_onednn
def test_a_gradient_lies_in_memory_as_its_weight_does():
    """torch's fused optimizers read both from the first number to the last."""
    for make in LAYERS.values():
        layer = make(16, 24)
        with OneDNNProducts():
            loss = layer(torch.randn(300, 16)).square().sum()
        for p, gradient in zip(layer.parameters(), torch.autograd.grad(loss, layer.parameters()), strict=True):
            assert gradient.stride() == p.stride()


def takes_over(x, layer):
    with OneDNNProducts():
        y = layer(x)
    names, waiting = set(), [y.grad_fn]
    while waiting:
        if (node := waiting.pop()) is not None:
            names.add(type(node).__name__)
            waiting += [function for function, _ in node.next_functions]
    return "LinearBackward" in names and "AddmmBackward0" not in names


@needs_onednn
def test_only_plain_float32_with_enough_rows_is_taken_over():
    layer, rows = torch.nn.Linear(8, 8), onednn.SMALLEST_BLOCK
    assert takes_over(torch.randn(rows, 8), layer)
    assert takes_over(torch.randn(2, rows // 2, 8), layer)
    assert not takes_over(torch.randn(rows - 1, 8), layer)
    assert not takes_over(torch.randn(rows, 8).double(), torch.nn.Linear(8, 8).double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not takes_over(torch.randn(rows, 8), layer)


@needs_onednn
def test_without_gradients_and_outside_nothing_is_recorded():
    layer, x = torch.nn.Linear(8, 8), torch.randn(100, 8)
    with torch.no_grad(), OneDNNProducts():
        assert layer(x).grad_fn is None
    with OneDNNProducts():
        layer.requires_grad_(False)
        assert layer(x).grad_fn is None
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


@needs_onednn
def test_few_shapes_reach_onednn(monkeypatch):
    """Each shape costs half a megabyte for good, and responses come in all lengths."""
    seen = set()
    blocks = onednn._blocks
    monkeypatch.setattr(onednn, "_blocks", lambda x: [seen.add(len(part)) or part for part in blocks(x)])
    layer = torch.nn.Linear(4, 4)
    for rows in range(64, 900):
        run(layer, torch.randn(rows, 4), torch.randn(rows, 4), products=True)
    assert seen == {64, 128, 192, 256}


def test_it_is_a_question_of_the_processor(monkeypatch):
    def faster(vendor, capability):
        onednn.onednn_is_faster.cache_clear()
        monkeypatch.setattr(onednn, "_processor", lambda: f"vendor_id: {vendor}")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        return onednn.onednn_is_faster()

    answers = [faster(*case) for case in (("AuthenticAMD", "AVX2"), ("GenuineIntel", "AVX512"))]
    onednn.onednn_is_faster.cache_clear()
    assert answers == [False, False]
