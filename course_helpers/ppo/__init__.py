"""PPO as the course teaches it: the classic API of TRL 0.11.4 on today's libraries.

Read `losses` (the arithmetic), then `PPOTrainer.step` in `trainer`; `rollout`, `value_head` and `controllers` are what
it stands on, `inputs`, `state` and `stats` what keeps it honest.
"""

from course_helpers.ppo.config import PPOConfig
from course_helpers.ppo.controllers import AdaptiveKLController, FixedKLController
from course_helpers.ppo.trainer import PPOTrainer
from course_helpers.ppo.value_head import AutoModelForCausalLMWithValueHead, create_reference_model
from course_helpers.prompts import LengthSampler

__all__ = [
    "AdaptiveKLController",
    "AutoModelForCausalLMWithValueHead",
    "FixedKLController",
    "LengthSampler",
    "PPOConfig",
    "PPOTrainer",
    "create_reference_model",
]
