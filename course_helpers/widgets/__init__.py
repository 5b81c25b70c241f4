"""Widgets of the lessons: ipywidgets over HTML, usable by keyboard, readable without a kernel.

- `SamplingExplorer`: the next token's distribution under every sampling setting, and rollouts;
- `WriteItYourself`: write a response token by token and watch its log-probability grow;
- `DecodingMicroscope`: one decoding step under the lens, and the tree of a beam search;
- `RatioClip`: PPO's clipped surrogate for one token, and whether its gradient is on;
- `PolicySteps`: policy gradient ascent by hand, on the triangle of policies over three responses;
- `RewardSliders`: rewards by hand, the partition function Z that goes with them, and the optimal policy;
- `BetaExplorer`: the optimal policy from the reference (high β) to the best response (low β), on the reward-KL curve;
- `BradleyTerry`: the probability of a preference, in which whatever depends on the query alone cancels;
- `PreferenceLosses`: loss and gradient weight against the margin: sigmoid, IPO, hinge;
- `FrontierPlot`: what each method reached in reward and KL, and the numbers, texts and command behind every point;
- `TimeTravel`: a slider through a training: its curves, the next token, and what the policy of each step writes;
- `ChatPanel`: questions to several models at once, their answers side by side;
- `PreferenceLabeller`: the learner's own choices between two responses, kept after each;
- `Quiz`: questions that explain every answer;
- `GlossaryPanel`: each term of the course, found as one types.
"""

from course_helpers.widgets.beta_explorer import BetaExplorer
from course_helpers.widgets.bradley_terry import BradleyTerry
from course_helpers.widgets.chat_panel import ChatPanel
from course_helpers.widgets.frontier_plot import FrontierPlot
from course_helpers.widgets.glossary_panel import GlossaryPanel
from course_helpers.widgets.microscope import DecodingMicroscope
from course_helpers.widgets.policy_steps import PolicySteps
from course_helpers.widgets.preference_labeller import PreferenceLabeller
from course_helpers.widgets.preference_losses import PreferenceLosses
from course_helpers.widgets.quiz import Quiz
from course_helpers.widgets.ratio_clip import RatioClip
from course_helpers.widgets.reward_sliders import RewardSliders
from course_helpers.widgets.sampling_explorer import SamplingExplorer
from course_helpers.widgets.time_travel_panel import TimeTravel
from course_helpers.widgets.write_it_yourself import WriteItYourself

__all__ = [
    "BetaExplorer",
    "BradleyTerry",
    "ChatPanel",
    "DecodingMicroscope",
    "FrontierPlot",
    "GlossaryPanel",
    "PolicySteps",
    "PreferenceLabeller",
    "PreferenceLosses",
    "Quiz",
    "RatioClip",
    "RewardSliders",
    "SamplingExplorer",
    "TimeTravel",
    "WriteItYourself",
]
