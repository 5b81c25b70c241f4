"""Whole trainings from settings: one policy, one judge and one set of prompts, and every method of the course on them.

`settings` says what a run is made of, `folder` what it leaves behind, `processes` how several processes share one, and
`data` what it learns from. `offline`, `online` and `sampled` hold the methods, `job` and `callbacks` what they have in
common; `measure` looks at what came out, and `run` puts all of it together. From a shell:
``python -m course_helpers.train``.
"""
