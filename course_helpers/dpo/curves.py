"""Live curves of a DPO run: a callback for TRL's trainer that draws what it logs."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from course_helpers.live import Curve, LiveCurves, Words
from course_helpers.plots import BLUE, GREEN, ORANGE, PURPLE, RED
from course_helpers.translation import N_, _

CURVES = (
    Curve("loss", N_("loss"), "loss", BLUE, known=math.log(2)),
    Curve("accuracy", N_("accuracy on the pairs"), "rewards/accuracies", GREEN, known=0.5),
    Curve("margin", N_("margin of implicit rewards"), "rewards/margins", PURPLE, known=0.0),
    Curve("chosen", N_("ln π of the chosen [nats]"), "logps/chosen", ORANGE),
    Curve("rejected", N_("ln π of the rejected [nats]"), "logps/rejected", RED),
)


class DPOCurves(LiveCurves, TrainerCallback):
    """Loss, accuracy, margin and log-probabilities, drawn while TRL trains; diamonds are the evaluation pairs.

    ::

        with DPOCurves() as live:
            trainer = dpo_trainer(..., callbacks=[live])
            trainer.train()

    The dotted lines are what an untrained policy has: a loss of ln 2, an accuracy of ½, a margin of 0. A resumed run
    goes on with the curves of its first part. Outside a Jupyter kernel nothing is drawn, and the numbers are kept.

    Args:
        title: what is trained; "DPO" when None.
        **options: as for `LiveCurves`: `window`, `share`, `clock`.
    """

    curves = CURVES
    axis = N_("step")
    words = Words(
        begun=N_("step 0 of {all}"),
        count=N_("step {count}"),
        left=N_("step {count} of {all}, {time} left"),
        nothing=N_("{title}: no steps"),
        all=N_("{title}, {count} steps: {curves}"),
    )

    def __init__(self, title: str | None = None, **options: Any):
        """Nothing is drawn yet."""
        super().__init__(title="DPO" if title is None else title, **options)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Take over what a run that is resumed has logged before, and start the clock."""
        self.iterations, self.started = state.max_steps, self.clock()
        self.steps.clear()
        self.marks.clear()
        for values in self.history.values():
            values.clear()
        for logs in state.log_history:
            self._take(logs["step"], logs)
        self._before = state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **others: Any
    ) -> None:
        """Draw, if there is time for it."""
        if self._take(state.global_step, logs):
            self._show()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Leave the final picture."""
        self.finish()

    def _take(self, step: int, logs: dict[str, Any]) -> bool:
        """Note a step's numbers, or those of an evaluation; whether there were any."""
        if "eval_loss" in logs:
            for curve in self.curves:
                self.marks.setdefault(curve.name, []).append((step, logs.get(f"eval_{curve.key}", math.nan)))
        elif "loss" in logs:
            self._note(step, logs)
        return "loss" in logs or "eval_loss" in logs

    def in_words(self) -> str:
        """The curves in one sentence, and where the evaluation ended."""
        words = super().in_words()
        if not self.marks:
            return words
        last = {name: points[-1][1] for name, points in self.marks.items()}
        line = _("{words}; evaluation pairs at the end: loss {loss}, accuracy {accuracy}")
        return line.format(words=words, loss=f"{last['loss']:.2f}", accuracy=f"{last['accuracy']:.2f}")

    def finish(self, interrupted: bool = False) -> None:
        """Leave the final picture once: when training ends, or when it is interrupted."""
        if self._handle is not None or (interrupted and self.count):
            super().finish(interrupted)
