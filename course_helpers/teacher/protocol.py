"""What a teacher must know how to do: write contexts, questions and answers, and judge them.

Each method gets a task and the number of a draft, `draw`: the same draw is written in the same way every time, as far
as a teacher can promise that.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from course_helpers.teacher.examples import Generated
from course_helpers.teacher.facts import Fact, KnowledgeTask, Wording
from course_helpers.teacher.templates import SkillTask

QUESTION_SCORE = 1  # a question is kept with this score, of 0 and 1
PAIR_SCORE = 2  # a pair is kept from this score on, of 1, 2 and 3
FAITHFUL_SCORE = 1  # an answer to a question about a document, of 0 and 1
RELEVANT_SCORE = 2  # the same, of 0, 1 and 2


class Rating(NamedTuple):
    """A judge's score and its reason.

    Attributes:
        score: on the scale that the judging method names; None if it could not be read.
        reason: the judge's own words.
    """

    score: int | None
    reason: str


class TeacherError(RuntimeError):
    """A teacher cannot go on.

    Attributes:
        so_far: what was made before, set by the pipeline; None outside of it.
    """

    so_far: Generated | None = None


class UnusableTextError(ValueError):
    """One text of a teacher cannot be used; the draft is rejected with this message, and the work goes on."""


class Teacher(Protocol):
    """Writes and judges.

    The methods that write may raise an `UnusableTextError`, by which one draft is lost, and all of them a
    `TeacherError`, by which the work ends.
    """

    def seed_of(self, task: SkillTask, draw: int) -> int:
        """The number of the seed example that a draft follows, from 1."""

    def write_context(self, task: SkillTask, draw: int) -> str | None:
        """A text for a question to be about; None if the skill goes without."""

    def write_question(self, task: SkillTask, context: str | None, draw: int) -> str:
        """A question, about the context if there is one."""

    def rate_question(self, task: SkillTask, context: str | None, question: str) -> Rating:
        """1 if the question can be answered from the context and belongs to the skill, else 0."""

    def write_answer(self, task: SkillTask, context: str | None, question: str, draw: int) -> str:
        """An answer."""

    def rate_pair(self, task: SkillTask, context: str | None, question: str, answer: str) -> Rating:
        """3 for a right answer in the form of the seeds, 2 for one that is nearly so, 1 for any other."""

    def write_fact_pair(self, task: KnowledgeTask, fact: Fact, wording: Wording, draw: int) -> tuple[str, str]:
        """A question about one paragraph, worded as asked for, and its answer."""

    def rate_faithful(self, task: KnowledgeTask, fact: Fact, question: str, answer: str) -> Rating:
        """1 if all that the answer says stands in the paragraph, else 0."""

    def rate_relevant(self, task: KnowledgeTask, fact: Fact, question: str, answer: str) -> Rating:
        """2 if the answer answers the question, 1 if in part, 0 if not."""

    def rate_fact_question(self, task: KnowledgeTask, fact: Fact, question: str) -> Rating:
        """1 if the question can be understood and answered from the paragraph, else 0."""
