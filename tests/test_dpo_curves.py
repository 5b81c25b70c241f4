"""Live curves of TRL's trainer: what is logged is what is drawn, resumed runs and evaluations included."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from course_helpers.dpo.curves import CURVES, DPOCurves
from course_helpers.dpo.training import lora_config
from course_helpers.translation import language
from tests.dpo_runs import PAIRS, small_policy, trainer_of
from tests.test_dpo_training import Stop


def run(folder, live, callbacks=(), resume=False, **settings):
    model, tokenizer = small_policy()
    settings = {
        "epochs": 3,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
    } | settings
    lora = lora_config(model, rank=2)
    trainer = trainer_of(
        folder, model, tokenizer, PAIRS, PAIRS[:4], lora=lora, callbacks=[live, *callbacks], **settings
    )
    with live:
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_history_is_what_trl_logged(tmp_path):
    live = DPOCurves()
    trainer = run(tmp_path, live)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert live.steps == [1, 2, 3, 4, 5, 6]
    for curve in CURVES:
        assert live.history[curve.name] == [entry[curve.key] for entry in logged]
    assert live.history["loss"][0] == pytest.approx(math.log(2), abs=1e-5)
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert live.marks["loss"] == [(step, e["eval_loss"]) for step, e in zip((2, 4, 6), evaluated, strict=True)]
    assert live.marks["accuracy"][-1] == (6, evaluated[-1]["eval_rewards/accuracies"])


def test_log_probabilities_and_margins_belong_together(tmp_path):
    # β [(ln π_w - ln π_ref,w) - (ln π_l - ln π_ref,l)] on the same pairs: margins move as the log-probabilities do
    live = DPOCurves()
    run(tmp_path, live, batch_size=8, epochs=4, beta=0.3, learning_rate=1e-3)
    gaps = [w - rejected for w, rejected in zip(live.history["chosen"], live.history["rejected"], strict=True)]
    margins = [0.3 * (gap - gaps[0]) for gap in gaps]
    assert live.history["margin"] == pytest.approx(margins, abs=1e-3)


def test_a_resumed_run_has_the_whole_curve(tmp_path):
    whole, first, second = DPOCurves(), DPOCurves(), DPOCurves()
    run(tmp_path / "whole", whole)
    run(tmp_path / "parts", first, callbacks=[Stop(after=4)])
    assert first.steps == [1, 2, 3, 4]
    run(tmp_path / "parts", second, resume=True)
    assert second.steps == whole.steps
    assert second.history == whole.history
    assert second.marks == whole.marks


def test_training_again_begins_anew(tmp_path):
    live = DPOCurves()
    run(tmp_path / "one", live, epochs=1)
    run(tmp_path / "two", live, epochs=2)
    assert live.steps == [1, 2, 3, 4]
    assert [step for step, _ in live.marks["loss"]] == [2, 4]


def test_words(tmp_path):
    live = DPOCurves("taste")
    assert live.in_words() == "taste: no steps"
    trainer = run(tmp_path, live)
    last = [entry for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    words = live.in_words()
    assert words.startswith("taste, 6 steps: loss 0.69 → ")
    assert words.endswith(f"loss {last['eval_loss']:.2f}, accuracy {last['eval_rewards/accuracies']:.2f}")
    assert live.progress() == "step 6 of 6, 0:00 left"
    language("pt")
    assert "perda 0.69" in live.in_words()
    assert live.progress() == "passo 6 de 6, faltam 0:00"


def test_logging_every_other_step(tmp_path):
    live = DPOCurves()
    run(tmp_path, live, logging_steps=2)
    assert live.steps == [2, 4, 6]
    assert live.count == 6


def test_the_picture_has_points_line_diamonds_and_what_is_known(tmp_path):
    live = DPOCurves()
    run(tmp_path, live)
    live.draw()
    loss, accuracy, margin, *log_probs = live.figure.axes
    points, _line, known, marks = loss.lines
    assert list(points.get_xdata()) == live.steps
    assert list(points.get_ydata()) == live.history["loss"]
    assert list(zip(marks.get_xdata(), marks.get_ydata(), strict=True)) == live.marks["loss"]
    assert list(known.get_ydata()) == [math.log(2)] * 2
    assert accuracy.lines[2].get_ydata()[0] == 0.5
    assert margin.lines[2].get_ydata()[0] == 0.0
    assert all(axes.get_xlabel() == "step" and axes.get_title() for axes in live.figure.axes)
    assert len(log_probs) == 2


KERNEL = """
import json, sys
from transformers import TrainerCallback
import course_helpers.live as live_module
from tests.dpo_runs import small_policy, trainer_of
from tests.test_dpo_curves import DPOCurves

live_module.in_kernel = lambda: True


def send(self, data, metadata=None):
    shown.append(sorted(data))
    self._handle = 1


live_module.LiveCurves._send = send
import IPython.display
IPython.display.display = lambda *args, **kwargs: shown.append("words")


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **others):
        if state.global_step == 2:
            raise KeyboardInterrupt


told = {}
for case, callbacks in (("to the end", []), ("interrupted", [Interrupt()])):
    shown = []
    live = DPOCurves(share=1.0)
    trainer = trainer_of(f"{sys.argv[1]}/{case}", *small_policy(), callbacks=[live, *callbacks], epochs=2)
    try:
        with live:
            trainer.train()
    except KeyboardInterrupt:
        shown.append("interrupted")
    told[case] = [shown, live.steps]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a kernel of its own showed, and the steps it drew, of a training to the end and of an interrupted one."""
    command = [sys.executable, "-c", KERNEL, str(tmp_path_factory.mktemp("kernel"))]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("case", "drawn", "end"), [("to the end", [1, 2, 3, 4], []), ("interrupted", [1], ["interrupted"])]
)
def test_the_final_picture_stays_once(told, case, drawn, end):
    shown, steps = told[case]
    assert steps == drawn
    assert shown.count(["image/png"]) == 1
    assert shown[-2 - len(end) :] == [["image/png"], "words", *end]
