"""Frozen lower layers run once a batch: what they give does not change while the layers above are trained.

With `num_shared_layers` the lowest layers of policy and reference are the same and take no gradient. Their
activations are then the same for both models and in all epochs, so they are computed once and handed in where the
first trainable layer begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def decoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """The list of a language model's layers, or None if there is no telling which it is."""
    inner = getattr(model, "pretrained_model", model)
    count = inner.config.get_text_config().num_hidden_layers
    lists = [m for m in inner.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return lists[0] if lists else None


def frozen_below(model: nn.Module) -> int:
    """How many of the lowest layers, and the embeddings below them, take no gradient."""
    layers = decoder_layers(model)
    embeddings = getattr(model, "pretrained_model", model).get_input_embeddings()
    if layers is None or any(p.requires_grad for p in embeddings.parameters()):
        return 0
    trainable = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    return trainable.index(True) if True in trainable else 0


def shares_layers(model: nn.Module, reference: nn.Module, count: int) -> bool:
    """Whether the reference's lowest layers and its embeddings are the model's own."""
    for part in (lambda m: m.get_input_embeddings(), lambda m: decoder_layers(m)[:count]):
        theirs = [list(part(getattr(m, "pretrained_model", m)).parameters()) for m in (model, reference)]
        if [id(p) for p in theirs[0]] != [id(p) for p in theirs[1]]:
            return False
    return True


class _ReachedError(Exception):
    """Stops a forward pass where the frozen layers end."""


@torch.no_grad()
def frozen_states(model: nn.Module, count: int, **inputs: Tensor) -> Tensor:
    """What layer `count` is given, (B, T, width): a forward pass that stops there."""
    found: list[Tensor] = []

    def reached(_: nn.Module, args: tuple) -> None:
        found.append(args[0])
        raise _ReachedError

    hook = decoder_layers(model)[count].register_forward_pre_hook(reached)
    try:
        getattr(model, "pretrained_model", model)(**inputs)
    except _ReachedError:
        return found[0]
    finally:
        hook.remove()
    raise RuntimeError(f"layer {count} of {type(model).__name__} was never reached")


@contextmanager
def handed_in(model: nn.Module, count: int, states: Tensor | None) -> Iterator[None]:
    """Let the lowest `count` layers pass `states` on instead of working; with None they work as ever."""
    layers = decoder_layers(model)[:count] if states is not None else []
    try:
        for layer in layers:
            layer.forward = lambda *_, **__: states
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # an interrupt may have come before it was there
