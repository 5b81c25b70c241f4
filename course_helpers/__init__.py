"""Companion to the course "Generative AI Advance Fine-Tuning for LLMs".

Import the module that teaches what you need, for example ``from course_helpers.models import load_policy``. Nothing
heavy is imported here, so ``import course_helpers`` costs nothing. ``course_helpers.language("pt")`` makes widgets,
checks, quizzes and figures speak Portuguese.
"""

from course_helpers.translation import language

__all__ = ["language"]
__version__ = "0.1.0"
