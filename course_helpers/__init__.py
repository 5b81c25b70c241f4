"""Companion to the course "Generative AI Advance Fine-Tuning for LLMs".

Import the module that teaches what you need, for example ``from course_helpers.models import load_policy``. Nothing
heavy is imported here, so ``import course_helpers`` costs nothing. ``course_helpers.language("pt")`` makes widgets,
checks, quizzes and figures speak Portuguese.
"""

import os
import sys

from course_helpers.translation import language

__all__ = ["language"]
__version__ = "1.0.0"


def _tell_nobody() -> None:
    """TRL tells the Hub of each trainer that is made, unless this variable forbids it; whoever has set it decides."""
    if "HF_HUB_DISABLE_TELEMETRY" not in os.environ:
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        read_before = sys.modules.get("huggingface_hub.constants")
        if read_before is not None:
            read_before.HF_HUB_DISABLE_TELEMETRY = True


_tell_nobody()
