"""The cases that are recorded: one setting or habit at a time is moved away from `base`.

`config` holds fields of `PPOConfig`. What else may be there: `lengths` ("same" instead of "ragged"), `response_masks`,
`lr_factors` (of a scheduler, step by step), `sgd` (learning rate of an optimizer of one's own), `num_shared_layers`,
`lora`, `dropout` (in all layers and the value head). Without `lora` and `num_shared_layers` there is a reference model.
"""

from __future__ import annotations

from typing import Any

SIZES = {"batch_size": 8, "mini_batch_size": 8}


def case(options: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    # weights move fast enough for ratios and values to reach their clipping
    return {"config": SIZES | {"learning_rate": 1e-2} | config, **(options or {})}


CASES: dict[str, dict[str, Any]] = {
    "base": case(),
    "defaults": {"config": SIZES},
    "fixed_kl": case(adap_kl_ctrl=False),
    "kl_target": case(kl_penalty="abs", target=1.7, horizon=100.0),  # near enough for β to move by less than its limit
    "kl_abs": case(kl_penalty="abs"),
    "kl_mse": case(kl_penalty="mse"),
    "kl_full": case(kl_penalty="full"),
    "whiten_rewards": case(whiten_rewards=True),
    "score_scaling": case(use_score_scaling=True),
    "score_scaling_norm": case(use_score_scaling=True, use_score_norm=True),
    "score_clip": case(score_clip=0.5),
    "minibatch2_accum2": case(mini_batch_size=2, gradient_accumulation_steps=2),
    "minibatch4": case(mini_batch_size=4),
    "gamma_lam": case(gamma=0.9, lam=0.8),
    "cliprange_small": case(cliprange=0.02, cliprange_value=0.02),
    "vf_coef": case(vf_coef=0.5),
    "early_stop": case(early_stopping=True, target_kl=0.01, mini_batch_size=4),  # after epoch 2, never, after 3
    "response_masks": case({"response_masks": True}),
    "lr_scheduler": case({"lr_factors": [1.0, 0.5, 0.1]}),
    "sgd": case({"sgd": 0.05}),
    "shared_layers": case({"num_shared_layers": 1}),
    "lora": case({"lora": True}),
    "dropout": case({"dropout": 0.1}),
    "same_length": case({"lengths": "same"}),
}
IN_FLOAT32 = ("base", "defaults")
