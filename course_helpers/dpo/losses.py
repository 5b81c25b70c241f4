"""The arithmetic of DPO: pure functions on tensors, in the order in which a step uses them.

A pair is a query X with a chosen response Y_w and a rejected one Y_l. Everywhere B is the number of pairs or rows, L
the length of the longest row, V the vocabulary. Log-probabilities are in nats and belong to whole responses: sums over
their tokens, not means.

Sources: Rafailov et al. 2023, "Direct Preference Optimization" (DPO); Azar et al. 2023, "A General Theoretical Paradigm
to Understand Learning from Human Preferences" (IPO); Zhao et al. 2023, "SLiC-HF" (hinge); Mitchell 2023, "A note on DPO
with noisy preferences" (label smoothing).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from course_helpers.checks import check_beta, is_finite, require
from course_helpers.ppo.losses import log_probs_of

LOSS_TYPES = ("sigmoid", "ipo", "hinge")


def sequence_log_probs(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    """ln π(Y|X) = Σ_t ln π(ω_t | ω_<t, X): the token at place t is predicted by the logits at place t − 1.

    Args:
        logits: (B, L, V), of rows that hold query and response.
        input_ids: (B, L).
        response_mask: (B, L), 1 where a token belongs to the response; queries and padding are 0.

    Returns:
        (B,), in nats; 0 for an empty response.

    Raises:
        ValueError: shapes that do not fit, or a response that starts at the first place, where nothing predicts it.

    Examples:
        >>> logits, ids = torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.long)
        >>> sequence_log_probs(logits, ids, torch.tensor([[0, 1, 1]])).exp().item()  # ½ · ½
        0.25
    """
    if not logits.shape[:-1] == input_ids.shape == response_mask.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (logits, input_ids, response_mask))
        raise ValueError(
            f"logits, input_ids and response_mask have shapes {shapes}; expected (B, L, V), (B, L), (B, L)."
        )
    if response_mask[:, 0].any():
        raise ValueError("a response starts at the first place, and no logits predict that: put a query before it.")
    per_token = log_probs_of(logits[:, :-1], input_ids[:, 1:])
    return (per_token * response_mask[:, 1:]).sum(-1)


def implicit_rewards(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """r̂ = β (ln π_θ(Y|X) − ln π_ref(Y|X)): the reward for which π_θ is already optimal, up to β ln Z(X).

    Args:
        log_probs: ln π_θ(Y|X), any shape.
        ref_log_probs: ln π_ref(Y|X), the same shape.
        beta: β, above 0, in reward per nat.

    Returns:
        The same shape, in units of reward. Only differences within a query mean anything.

    Raises:
        ValueError: β not above 0.

    Examples:
        >>> implicit_rewards(torch.tensor([-1.0]), torch.tensor([-3.0]), beta=0.5).tolist()
        [1.0]

    Source: Rafailov et al. 2023, equation 5 without its last term.
    """
    check_beta(beta)
    return beta * (log_probs - ref_log_probs)


def dpo_loss(
    log_probs_w: Tensor,
    log_probs_l: Tensor,
    ref_log_probs_w: Tensor,
    ref_log_probs_l: Tensor,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of each pair; ln 2 where π_θ is still π_ref (sigmoid).

    With the margin m = r̂(X, Y_w) − r̂(X, Y_l) of implicit rewards:

    - sigmoid: −ln σ(m), the likelihood of the choice under Bradley-Terry; with label smoothing ε, labels are taken to
      be turned round with probability ε: −(1 − ε) ln σ(m) − ε ln σ(−m), smallest at σ(m) = 1 − ε;
    - ipo: (m/β − 1/(2β))², which wants the margin ½ and no more;
    - hinge: max(0, 1 − m), which wants 1 at least.

    Args:
        log_probs_w: ln π_θ(Y_w|X) of the chosen responses, (B,) or any shape.
        log_probs_l: ln π_θ(Y_l|X) of the rejected ones, the same shape, as are the next two.
        ref_log_probs_w: ln π_ref(Y_w|X).
        ref_log_probs_l: ln π_ref(Y_l|X).
        beta: β, above 0, in reward per nat. High β keeps the policy near its reference.
        loss_type: "sigmoid", "ipo" or "hinge".
        label_smoothing: ε, from 0 to below ½; for sigmoid only.

    Returns:
        One loss a pair, of the same shape, without unit. A batch is trained on their mean.

    Raises:
        ValueError: shapes that differ, or a setting outside its range.

    Examples:
        >>> start = torch.tensor([-5.0]), torch.tensor([-7.0])  # of the chosen and the rejected response
        >>> round(dpo_loss(*start, *start).item(), 4)  # π_θ is still π_ref: ln 2
        0.6931

    Source: Rafailov et al. 2023, equation 7; Azar et al. 2023, equation 17, on whole responses (TRL's "ipo" takes means
    over tokens instead of sums); Zhao et al. 2023, equation 1, on log-ratios; Mitchell 2023, equation 3.
    """
    if not log_probs_w.shape == log_probs_l.shape == ref_log_probs_w.shape == ref_log_probs_l.shape:
        shapes = [tuple(x.shape) for x in (log_probs_w, log_probs_l, ref_log_probs_w, ref_log_probs_l)]
        raise ValueError(f"the four log-probabilities have shapes {shapes}; pass one number a pair in each.")
    chosen = implicit_rewards(log_probs_w, ref_log_probs_w, beta)
    rejected = implicit_rewards(log_probs_l, ref_log_probs_l, beta)
    return loss_of_margin(chosen - rejected, beta, loss_type, label_smoothing)


def loss_of_margin(
    margin: Tensor, beta: float = 0.1, loss_type: str = "sigmoid", label_smoothing: float = 0.0
) -> Tensor:
    """What `dpo_loss` makes of the margin m.

    Args:
        margin: m, any shape, in units of reward.
        beta: β; matters to "ipo" alone.
        loss_type: "sigmoid", "ipo" or "hinge".
        label_smoothing: ε, for sigmoid only.

    Returns:
        The same shape, without unit.

    Raises:
        ValueError: a setting outside its range.

    Examples:
        >>> [loss_of_margin(torch.tensor(m), loss_type="hinge").item() for m in (0.0, 1.0, 2.0)]
        [1.0, 0.0, 0.0]
        >>> [loss_of_margin(torch.tensor(m), beta=0.5, loss_type="ipo").item() for m in (0.0, 0.5, 1.0)]
        [1.0, 0.0, 1.0]
    """
    check_beta(beta)
    require(loss_type in LOSS_TYPES, "loss_type", loss_type, f"one of {', '.join(LOSS_TYPES)}")
    fits = is_finite(label_smoothing) and 0 <= label_smoothing < 0.5
    require(fits and (loss_type == "sigmoid" or not label_smoothing), "label_smoothing", label_smoothing,
            "from 0 to below ½, and 0 unless loss_type is 'sigmoid'")  # fmt: skip
    if loss_type == "ipo":
        return ((margin - 0.5) / beta) ** 2
    if loss_type == "hinge":
        return torch.relu(1 - margin)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def gradient_weight(
    margin: Tensor, beta: float = 0.1, loss_type: str = "sigmoid", label_smoothing: float = 0.0
) -> Tensor:
    """How hard a pair pulls: −∂loss/∂m. The gradient of its loss is −weight · β (∇ ln π_θ(Y_w|X) − ∇ ln π_θ(Y_l|X)).

    For sigmoid it is σ(−m), the probability that the implicit rewards give to the wrong order (minus ε, if smoothed):
    near 1 for a pair that is ranked wrongly, near 0 for one ranked rightly. For ipo it falls in a straight line and
    turns its sign at m = ½; for hinge it is 1 up to m = 1 and 0 after.

    Args:
        margin: m, any shape, in units of reward.
        beta: β; matters to "ipo" alone.
        loss_type: "sigmoid", "ipo" or "hinge".
        label_smoothing: ε, for sigmoid only.

    Returns:
        The same shape, per unit of reward.

    Raises:
        ValueError: a setting outside its range.

    Examples:
        >>> gradient_weight(torch.tensor(0.0)).item()  # the two cannot be told apart yet
        0.5
        >>> gradient_weight(torch.tensor(1.0), beta=0.5, loss_type="ipo").item()  # too far: back
        -4.0

    Source: Rafailov et al. 2023, section 4, "What does the DPO update do?".
    """
    loss_of_margin(margin, beta, loss_type, label_smoothing)  # checks the settings
    if loss_type == "ipo":
        return 2 * (0.5 - margin) / beta**2
    if loss_type == "hinge":
        return (margin < 1).to(margin.dtype)
    return torch.sigmoid(-margin) - label_smoothing
