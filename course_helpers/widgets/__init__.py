"""Widgets of the lessons: ipywidgets over HTML, usable by keyboard, readable without a kernel.

- `SamplingExplorer`: the next token's distribution under every sampling setting, and rollouts;
- `WriteItYourself`: write a response token by token and watch its log-probability grow;
- `DecodingMicroscope`: one decoding step under the lens, and the tree of a beam search.
"""

from course_helpers.widgets.microscope import DecodingMicroscope
from course_helpers.widgets.sampling_explorer import SamplingExplorer
from course_helpers.widgets.write_it_yourself import WriteItYourself

__all__ = ["DecodingMicroscope", "SamplingExplorer", "WriteItYourself"]
