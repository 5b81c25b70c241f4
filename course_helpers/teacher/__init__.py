"""A teacher that writes training data from a taxonomy: contexts, questions, answers, and judges of each.

    seed examples → `templates` → drafts of a `Teacher` → its judges → `pipeline` → examples for training

Two teachers know how: `RuleTeacher`, a toy that works by template and rule and slips on purpose, and
`EndpointTeacher`, a language model behind an OpenAI-compatible endpoint.

Source: Sudalairaj et al. 2024, "LAB: Large-Scale Alignment for ChatBots", arXiv 2403.01081, section 3.
"""
