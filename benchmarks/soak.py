"""A long day in one kernel: a thousand moves of sliders, hundreds of generations, trainings; what does it leave behind?

    python benchmarks/soak.py            # about 4 minutes on two cores
    python benchmarks/soak.py --quick    # the same path with short trainings, about a minute

One real Jupyter kernel has all panels with sliders on show. Their sliders move and their buttons are pressed by the
messages that a front end sends, and each is timed until the kernel says that it is idle again. In between, policies are
trained as in lessons 03 (PPO), 05 (DPO) and 07 (a phase of fine-tuning), live curves included. One round of everything
warms up; over the rounds that follow nothing may grow.

Three numbers show it. "Resident" is what the system counts; freed memory stays in it (see `course_helpers.memory`), so
it shows peaks. "In use" is what the C library has handed out and not got back, where it is glibc: tensors and other
large things. "Objects" are Python's small ones, which it keeps itself; these two show leaks. The exit status is 1 if
one of the three grew by 5 % or more, if a thread, a file descriptor, a widget, a figure or a model is left over, if a
panel's cell that runs again leaves the panel before behind, or if the last hundred moves took more than 1.25 times as
long as the first (medians).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import weakref
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GROWTH, SLOWER = 1.05, 1.25  # what is still called flat
TENTHS = 10
# Freed memory is kept, and what is resident is the most that was ever needed. With one arena for all threads: each time
# a model is loaded, transformers' threads otherwise take to other arenas, each of which keeps a model's worth of memory
# until all arenas are full.
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1"}
RUNS_AGAIN, MOST_AGAIN = 5, 5.0  # of a panel's cell; MiB a run, of which IPython's Out keeps some
LONGEST = 300  # seconds that one cell may take
TRAININGS = ("PPO", "DPO", "fine-tuning")
FLAT = {"resident": "MiB", "in use": "MiB", "objects": "thousands"}  # what may not grow, and how it is counted
NEVER_MORE = ("threads", "system threads", "descriptors", "widgets", "comms", "figures")


@dataclass(frozen=True)
class Work:
    """How much is done.

    Attributes:
        events: moves of sliders in all.
        generations: presses of buttons that make a policy write, and calls of `generate`, in all.
        rounds: how often each training is run after the warm-up.
        ppo_steps: iterations of a PPO run.
        dpo_steps: steps of a DPO run.
        sft_steps: steps of a phase of fine-tuning.
        batch_size: responses, pairs or rows in a step.
    """

    events: int = 1000
    generations: int = 200
    rounds: int = 2
    ppo_steps: int = 10
    dpo_steps: int = 40
    sft_steps: int = 100
    batch_size: int = 32


QUICK = Work(generations=50, rounds=1, ppo_steps=2, dpo_steps=2, sft_steps=2, batch_size=8)


# -------------------------------------------------------------------------------------------------------- in the kernel


class Course:
    """The panels of the lessons and three trainings, all on the small models."""

    def __init__(self, work: Work):
        import warnings

        import transformers

        from course_helpers import models, prompts

        transformers.utils.logging.disable_progress_bar()
        warnings.simplefilter("ignore")  # of PPO's first steps, and between peft and transformers
        self.work = work
        self.reference = models.load_reference("small")
        self.policy, self.tokenizer = models.load_policy("small")
        self.judge = models.load_judge("small")
        self.queries = [self.tokenizer(text).input_ids[:6] for text in prompts.load_prompts("small")]
        self.scratch = tempfile.TemporaryDirectory()
        self.panels = self._panels()

    def _panels(self) -> dict[str, Any]:
        """Every panel that has sliders or makes a policy write, by name, as the lessons show them."""
        from course_helpers import time_travel, widgets
        from course_helpers.frontier import table

        pi_ref, r = (0.4, 0.3, 0.2, 0.1), (0.0, 1.0, -1.0, 2.0)
        model = self.policy, self.tokenizer
        self.journeys = [time_travel.Journey.load(name) for name in time_travel.shipped()]
        asked = [(None, "Who made The Salt Road?"), ("The acting was dull.", "What is praised?")]
        panels = [
            widgets.SamplingExplorer(*model),
            widgets.WriteItYourself(*model),
            widgets.DecodingMicroscope(*model),
            widgets.RatioClip(),
            widgets.PolicySteps(),
            widgets.RewardSliders(pi_ref, rewards=r),
            widgets.BetaExplorer(pi_ref, r),
            widgets.BradleyTerry(),
            widgets.PreferenceLosses(),
            widgets.FrontierPlot(table.load_points(), table.load_samples()),
            self.another(),
            widgets.ChatPanel({"before": self.reference, "after": self.policy}, self.tokenizer, asked),
        ]
        return {type(panel).__name__: panel for panel in panels}

    def another(self) -> Any:
        """Another journey through a training."""
        from course_helpers.widgets import TimeTravel

        return TimeTravel(self.journeys, self.reference, self.tokenizer)

    def sliders(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Each slider's id, and the states that a front end sends when it is moved to three places and back."""
        return [(part.model_id, _moves(part)) for panel in self.panels.values() for part in _sliders(panel)]

    def buttons(self) -> list[list[str]]:
        """Ids of the buttons that make a policy write; those in one list are pressed one after the other."""
        named = {
            "SamplingExplorer": ("draw_button",),
            "DecodingMicroscope": ("next_button", "search_button", "back_button"),
            "TimeTravel": ("write_button",),
            "ChatPanel": ("answer_button",),
        }
        pressed = [[getattr(self.panels[panel], name) for name in names] for panel, names in named.items()]
        writer = self.panels["WriteItYourself"]
        pressed.append([*writer.choices[:3], writer.restart_button])
        return [[each.model_id for each in row] for row in pressed]

    def troubles(self) -> list[str]:
        """What panels complain about."""
        return [f"{name}: {panel.trouble}" for name, panel in self.panels.items() if panel.trouble]

    def generate(self) -> None:
        """Responses to a batch of queries, as the trainers draw them."""
        import torch

        from course_helpers.ppo.rollout import generate_responses

        rows = [torch.tensor(row) for row in self.queries[: self.work.batch_size]]
        sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": 12}
        generate_responses(self.policy, rows, self.tokenizer.eos_token_id, **sampling)

    # --- trainings ----------------------------------------------------------------------------------------------------

    def train(self, name: str) -> dict[str, Any]:
        """One training from the start to its policy, then nothing of it is kept.

        Returns:
            "step": seconds of a step; "left": how many of its models and trainers are still there afterwards.
        """
        run = {"PPO": self._ppo, "DPO": self._dpo, "fine-tuning": self._fine_tuning}[name]
        step, made = run()
        gc.collect()
        return {"step": step, "left": sum(each() is not None for each in made)}

    def _ppo(self) -> tuple[float, list[weakref.ref]]:
        from datasets import Dataset

        from course_helpers import live, ppo
        from course_helpers.evaluate import log_odds

        work, end = self.work, self.tokenizer.eos_token_id
        rows = [{"input_ids": row, "query": self.tokenizer.decode(row)} for row in self.queries]
        model = ppo.AutoModelForCausalLMWithValueHead.from_pretrained("small")
        config = ppo.PPOConfig(batch_size=work.batch_size, mini_batch_size=work.batch_size // 2, ppo_epochs=2)
        collate = lambda samples: {key: [sample[key] for sample in samples] for key in samples[0]}  # noqa: E731
        data = Dataset.from_list(rows).with_format("torch")
        trainer = ppo.PPOTrainer(config, model, self.reference, self.tokenizer, data, data_collator=collate)
        sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "pad_token_id": end, "max_new_tokens": 12}
        began = time.perf_counter()
        with live.LiveCurves(work.ppo_steps) as curves:
            for _step, batch in zip(range(work.ppo_steps), trainer.dataloader, strict=False):
                responses = trainer.generate(batch["input_ids"], return_prompt=False, **sampling)
                texts = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
                scores = log_odds(self.judge, [q + y for q, y in zip(batch["query"], texts, strict=True)])
                curves.update(trainer.step(batch["input_ids"], responses, scores), batch["query"], texts, scores)
        made = [weakref.ref(each) for each in (model, model.pretrained_model, trainer, curves)]
        return (time.perf_counter() - began) / work.ppo_steps, made

    def _dpo(self) -> tuple[float, list[weakref.ref]]:
        from course_helpers import models
        from course_helpers.dpo import curves, saving, training

        work = self.work
        sides = {"chosen": " a joy from start to finish.", "rejected": " a mess, and much too long."}
        pairs = [
            {"prompt": self.tokenizer.decode(row), **sides} for row in self.queries[: work.batch_size * work.dpo_steps]
        ]
        model, tokenizer = models.load_policy("small")
        options = {"beta": 0.3, "learning_rate": 1e-3, "batch_size": work.batch_size, "max_steps": work.dpo_steps}
        config = training.dpo_config(self.scratch.name, model, **options)
        drawn = curves.DPOCurves()
        lora = training.lora_config(model, 16)
        trainer = training.dpo_trainer(model, tokenizer, config, pairs, lora=lora, callbacks=[drawn])
        began = time.perf_counter()
        trainer.train()
        took = (time.perf_counter() - began) / work.dpo_steps
        policy = saving.merged(trainer.model)
        return took, [weakref.ref(each) for each in (model, trainer, trainer.model, policy, drawn)]

    def _fine_tuning(self) -> tuple[float, list[weakref.ref]]:
        from course_helpers import instruct, taxonomy
        from course_helpers.dpo import saving
        from course_helpers.teacher.pipeline import generate_skill
        from course_helpers.teacher.rules import RuleTeacher

        work, place = self.work, Path(self.scratch.name) / "taxonomy"
        if not place.exists():
            taxonomy.start_taxonomy(place)
        skill = taxonomy.read_skill(next(place.glob("compositional_skills/**/qna.yaml")))
        rows = instruct.instruction_rows(self.tokenizer, generate_skill(skill, RuleTeacher(), n=60).examples)
        reviews = instruct.review_rows(instruct.draw_reviews(self.reference, self.tokenizer, 16, tokens=24))
        phase = replace(instruct.SKILL_PHASE, steps=work.sft_steps, batch_size=work.batch_size)
        tuned = instruct.tune_phase(self.reference, self.tokenizer, phase, rows, reviews)
        policy = saving.merged(tuned.model)
        return tuned.seconds / work.sft_steps, [weakref.ref(each) for each in (tuned.model, policy)]


def _sliders(panel: Any) -> list[Any]:
    """The sliders of a panel, from top to bottom."""
    import ipywidgets as widgets

    kinds = (widgets.FloatSlider, widgets.IntSlider, widgets.SelectionSlider)
    found = [panel] if isinstance(panel, kinds) else []
    return found + [each for child in getattr(panel, "children", ()) for each in _sliders(child)]


def _moves(slider: Any) -> list[dict[str, Any]]:
    """A quarter, a half and three quarters of its way; a whole number where there are no others."""
    import ipywidgets as widgets

    if isinstance(slider, widgets.SelectionSlider):
        last = len(slider.options) - 1
        return [{"index": place} for place in dict.fromkeys(round(share * last) for share in (0.25, 0.5, 0.75))]
    ways = [slider.min + share * (slider.max - slider.min) for share in (0.25, 0.5, 0.75)]
    whole = isinstance(slider, widgets.IntSlider)
    return [{"value": round(way) if whole else way} for way in ways]


def measure() -> dict[str, float]:
    """What this process holds, after a collection of garbage; memory in MiB."""
    import matplotlib.pyplot as plt
    import psutil
    from comm import get_comm_manager
    from ipywidgets.widgets import widget

    gc.collect()
    process = psutil.Process()
    counts = {
        "resident": process.memory_info().rss / 2**20,
        "objects": sys.getallocatedblocks() / 1000,
        "threads": threading.active_count(),
        "system threads": process.num_threads(),
        "widgets": len(widget._instances),
        "comms": len(get_comm_manager().comms),
        "figures": len(plt.get_fignums()),
    }
    if (used := in_use()) is not None:
        counts["in use"] = used
    if hasattr(process, "num_fds"):  # not on Windows
        counts["descriptors"] = process.num_fds()
    return counts


class _Heap(ctypes.Structure):
    """What glibc's mallinfo2 says: bytes in use are `uordblks`, and `hblkhd` for large blocks of their own."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def in_use() -> float | None:
    """MiB that the C library has handed out and not got back; None where it does not say."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    ask.restype = _Heap
    heap = ask()
    return (heap.uordblks + heap.hblkhd) / 2**20


# ----------------------------------------------------------------------------------------------------------- the driver


class Kernel:
    """A kernel, and a front end that speaks to it."""

    def __init__(self) -> None:
        from jupyter_client.manager import start_new_kernel

        environment = os.environ | MEMORY | {"HF_HUB_OFFLINE": "1", "COURSE_DEVICE": "cpu", "COURSE_LANGUAGE": "en"}
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(ROOT))

    def run(self, cell: str, answer: str = "None", cell_id: str | None = None) -> Any:
        """Run a cell as a learner does, its output kept in Out, and give the value of an expression after it.

        Args:
            cell: its code.
            answer: an expression whose value JSON can hold.
            cell_id: under which the notebook knows the cell.

        Raises:
            RuntimeError: the cell failed; with its traceback.
        """
        asks = {"answer": f"__import__('json').dumps({answer})"}
        content = {"code": cell, "silent": False, "store_history": True, "user_expressions": asks}
        metadata = {"cellId": cell_id} if cell_id else {}
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        asked = message["header"]["msg_id"]
        self._wait(asked)
        while True:
            reply = self.client.get_shell_msg(timeout=LONGEST)
            if reply["parent_header"].get("msg_id") == asked:
                break
        content = reply["content"]
        said = content.get("user_expressions", {}).get("answer", {})
        if content["status"] != "ok" or said.get("status") != "ok":
            raise RuntimeError("\n".join(content.get("traceback") or said.get("traceback") or [str(content)]))
        return json.loads(json.loads(_unquoted(said["data"]["text/plain"])))

    def send(self, widget: str, data: dict[str, Any]) -> float:
        """Send a widget what a front end sends; milliseconds until the kernel is idle again."""
        message = self.client.session.msg("comm_msg", {"comm_id": widget, "data": data})
        began = time.perf_counter()
        self.client.shell_channel.send(message)
        self._wait(message["header"]["msg_id"])
        return 1000 * (time.perf_counter() - began)

    def move(self, slider: str, state: dict[str, Any]) -> float:
        """Move a slider."""
        return self.send(slider, {"method": "update", "state": state, "buffer_paths": []})

    def press(self, button: str) -> float:
        """Press a button."""
        return self.send(button, {"method": "custom", "content": {"event": "click"}})

    def stop(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def _wait(self, asked: str) -> None:
        while True:
            message = self.client.get_iopub_msg(timeout=LONGEST)
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return


def _unquoted(text: str) -> str:
    """A Python text literal as JSON has it."""
    import ast

    return json.dumps(ast.literal_eval(text))


class Day:
    """A kernel with the course in it, and what was measured."""

    def __init__(self, kernel: Kernel, work: Work):
        self.kernel, self.work = kernel, work
        here = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
        kernel.run(f"{here}\nimport soak\ncourse = soak.Course(soak.Work(**{asdict(work)!r}))")
        for panel in kernel.run("", "list(course.panels)"):
            kernel.run(f"course.panels[{panel!r}]", cell_id=panel)  # the cell's last line: on show, and in Out
        self.sliders = kernel.run("", "course.sliders()")
        self.buttons = kernel.run("", "course.buttons()")

    def move(self, count: int) -> list[float]:
        """Move the sliders in turn; every call makes the same moves. Milliseconds of each."""
        moves = [(*self.sliders[k % len(self.sliders)], k // len(self.sliders)) for k in range(count)]
        return [self.kernel.move(slider, states[lap % len(states)]) for slider, states, lap in moves]

    def generate(self, count: int) -> float:
        """Press the buttons in turn and call `generate`; mean seconds of one."""
        began = time.perf_counter()
        for place in range(count):
            if place % (len(self.buttons) + 1) == len(self.buttons):
                self.kernel.run("course.generate()")
            else:
                for button in self.buttons[place % (len(self.buttons) + 1)]:
                    self.kernel.press(button)
        return (time.perf_counter() - began) / max(1, count)

    def train(self, name: str) -> dict[str, Any]:
        """One training."""
        return self.kernel.run(f"trained = course.train({name!r})", "trained")

    def measure(self) -> dict[str, float]:
        """What the kernel holds now."""
        return self.kernel.run("", "soak.measure()")

    def show_again(self, count: int) -> dict[str, float]:
        """Run the cell of the heaviest panel, which copies a model, again and again; what each run leaves behind."""
        before = self.measure()
        for _again in range(count):
            self.kernel.run("course.another()", cell_id="TimeTravel")
        after = self.measure()
        return {name: (after[name] - before[name]) / count for name in ("widgets", "comms", "in use") if name in after}


def soak(work: Work) -> dict[str, Any]:
    """Warm up with one of everything, then tenth by tenth, with the trainings in between.

    Returns:
        "rows": what the kernel held at the start of each tenth and at the end; "events": milliseconds of each tenth's
        moves; "generations": seconds of one, in each tenth; "trainings": name → one dictionary a round; "troubles":
        what panels complain about; "again": what each further run of one panel's cell leaves behind.
    """
    kernel = Kernel()
    try:
        day = Day(kernel, work)
        moves, writes = work.events // TENTHS, work.generations // TENTHS
        trainings: dict[str, list[dict[str, Any]]] = {name: [day.train(name)] for name in TRAININGS}
        day.move(max(moves, 3 * len(day.sliders)))
        day.generate(max(writes, len(day.buttons) + 1))
        plan = [TRAININGS[k % len(TRAININGS)] for k in range(work.rounds * len(TRAININGS))]
        due = [(k + 1) * TENTHS // (len(plan) + 1) for k in range(len(plan))]  # the tenth of each
        day.move(moves)  # so that the first tenth, too, begins where the one before ended
        rows, events, generations = [day.measure()], [], []
        for tenth in range(TENTHS):
            for name in (name for at, name in zip(due, plan, strict=True) if at == tenth):
                trainings[name].append(day.train(name))
            events.append(day.move(moves))
            generations.append(day.generate(writes))
            rows.append(day.measure())
        troubles = kernel.run("", "course.troubles()")
        again = day.show_again(RUNS_AGAIN)
    finally:
        kernel.stop()
    return {
        "work": asdict(work),
        "rows": rows,
        "events": events,
        "generations": generations,
        "trainings": trainings,
        "troubles": troubles,
        "again": again,
    }


def growth(result: dict[str, Any], name: str) -> float:
    """The most that was held in any tenth, over what was held after the warm-up."""
    values = [row[name] for row in result["rows"]]
    return max(values) / values[0]


def slower(result: dict[str, Any]) -> float:
    """How many times as long the last tenth's moves took as the first's, by their medians."""
    first, last = (statistics.median(result["events"][place]) for place in (0, -1))
    return last / first


def faults(result: dict[str, Any]) -> list[str]:
    """What is not flat, in words; none if all is well."""
    first, last = result["rows"][0], result["rows"][-1]
    found = [
        f"{name} grew to {growth(result, name):.3f} times what it was"
        for name in FLAT
        if name in first and growth(result, name) >= GROWTH
    ]
    found += [f"{last[n] - first[n]:.0f} {n} are left over" for n in NEVER_MORE if n in first and last[n] > first[n]]
    for name, runs in result["trainings"].items():
        found += [f"{name} left {run['left']} of its objects behind" for run in runs if run["left"]]
    if slower(result) > SLOWER:
        found.append(f"the last moves took {slower(result):.2f} times as long as the first")
    again = result["again"]
    if again["widgets"] > 0:
        found.append(f"a cell that runs again leaves {again['widgets']:.0f} widgets behind")
    if again.get("in use", 0.0) >= MOST_AGAIN:
        found.append(f"a cell that runs again leaves {again['in use']:.0f} MiB behind")
    return found + [f"a panel complains: {trouble}" for trouble in result["troubles"]]


def report(result: dict[str, Any]) -> None:
    """Everything as Markdown."""
    names = [name for name in (*FLAT, *NEVER_MORE) if name in result["rows"][0]]
    heads = [f"{name} [{FLAT[name]}]" if name in FLAT else name for name in names]
    heads += ["move: median [ms]", "95 % [ms]", "generation [s]"]
    print("| tenth | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    timed = zip(result["events"], result["generations"], strict=True)
    times = [[statistics.median(e), statistics.quantiles(e, n=20, method="inclusive")[-1], g] for e, g in timed]
    for place, row in enumerate(result["rows"]):
        took = [f"{x:.{2 if k == 2 else 1}f}" for k, x in enumerate(times[place])] if place < TENTHS else [""] * 3
        cells = [str(place + 1) if place < TENTHS else "end", *(f"{row[name]:.0f}" for name in names), *took]
        print("| " + " | ".join(cells) + " |")
    print("\n| training | s a step, each run | objects left |\n|---|---|---|")
    for name, runs in result["trainings"].items():
        steps = ", ".join(f"{run['step']:.2f}" for run in runs)
        print(f"| {name} | {steps} | {sum(run['left'] for run in runs)} |")
    grown = ", ".join(f"{n} {growth(result, n):.3f}" for n in FLAT if n in result["rows"][0])
    print(f"\nlargest over first: {grown}; moves, last tenth over first: {slower(result):.2f}")
    left = ", ".join(f"{value:.1f} {'MiB' if name == 'in use' else name}" for name, value in result["again"].items())
    print(f"a panel's cell run again leaves behind, each time: {left}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer generations, trainings of two steps")
    parser.add_argument("--events", type=int, help="moves of sliders")
    parser.add_argument("--generations", type=int)
    parser.add_argument("--rounds", type=int, help="runs of each training after the warm-up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything that was measured")
    wanted = vars(parser.parse_args())
    file, work = wanted.pop("json"), QUICK if wanted.pop("quick") else Work()
    result = soak(replace(work, **{name: value for name, value in wanted.items() if value is not None}))
    report(result)
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n")
    found = faults(result)
    print(*found, sep="\n", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
