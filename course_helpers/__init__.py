"""Companion to the course "Generative AI Advance Fine-Tuning for LLMs".

Import the module that teaches what you need, for example ``from course_helpers.models import load_policy``. Nothing
heavy is imported here, so ``import course_helpers`` costs nothing.
"""

__version__ = "0.1.0"
