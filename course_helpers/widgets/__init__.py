"""Widgets of the lessons: ipywidgets over HTML, usable by keyboard, readable without a kernel.

- `SamplingExplorer`: the next token's distribution under every sampling setting, and rollouts;
- `WriteItYourself`: write a response token by token and watch its log-probability grow;
- `DecodingMicroscope`: one decoding step under the lens, and the tree of a beam search;
- `RatioClip`: PPO's clipped surrogate for one token, and whether its gradient is on;
- `PolicySteps`: policy gradient ascent by hand, on the triangle of policies over three responses;
- `Quiz`: questions that explain every answer;
- `GlossaryPanel`: each term of the course, found as one types.
"""

from course_helpers.widgets.glossary_panel import GlossaryPanel
from course_helpers.widgets.microscope import DecodingMicroscope
from course_helpers.widgets.policy_steps import PolicySteps
from course_helpers.widgets.quiz import Quiz
from course_helpers.widgets.ratio_clip import RatioClip
from course_helpers.widgets.sampling_explorer import SamplingExplorer
from course_helpers.widgets.write_it_yourself import WriteItYourself

__all__ = [
    "DecodingMicroscope",
    "GlossaryPanel",
    "PolicySteps",
    "Quiz",
    "RatioClip",
    "SamplingExplorer",
    "WriteItYourself",
]
