"""Checked exercises: a learner writes a function, and the check names the mistake.

    answer → `attempt` (called on small inputs, guarded by `limits`) → `check` (right, or which mistake) → `shown`

- `exercise("1.2")` finds an exercise; its `check`, `hint` and `solution` show themselves in a notebook;
- `lesson_01`, `lesson_02`, …: the exercises, one file a lesson. A new file is found by its name.
"""

from course_helpers.exercises.registry import exercise

__all__ = ["exercise"]
