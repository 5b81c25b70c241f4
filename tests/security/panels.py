"""Every widget of the course, built from hostile texts: names, prompts, vocabularies, files."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch
import yaml
from ipywidgets import Widget

from course_helpers import widgets
from course_helpers.choices import Question
from course_helpers.frontier.table import Sample
from course_helpers.quizzes import QuizData, read_quiz
from tests.frontier_points import journey, points

HARMLESS = "a plain text"


class Rogue:
    """A tokenizer whose every piece is hostile, but for the end; a half letter cannot be read, as with a real one."""

    eos_token_id = 0

    def __init__(self, pieces: Sequence[str]):
        self.pieces = ["<|endoftext|>", *pieces]

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        text.encode("utf-8")
        return {"input_ids": [1, len(self.pieces) - 1] if text else []}

    def decode(self, ids: Sequence[int], **options: object) -> str:
        return "".join(self.pieces[place] for place in ids)

    def convert_ids_to_tokens(self, place: int) -> str:
        return self.pieces[place]


def rogue(*texts: str) -> tuple[torch.nn.Module, Rogue]:
    """A policy that writes these texts; it is tiny, and has learned nothing."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = 1 + len(texts)
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval(), Rogue(texts)


def quiz_of(text: str) -> QuizData:
    """A quiz with a question of every kind, each of its texts the hostile one."""
    place = 0

    def words() -> dict[str, str]:
        nonlocal place
        place += 1
        return dict.fromkeys(("en", "pt"), f"{place} {text} .")

    choices = [{"text": words(), "why": words(), "right": right} for right in (True, False)]
    steps = [{"text": words()}, *({"text": words(), "why": words()} for _step in range(2))]
    mistakes = [{"value": value, "why": words()} for value in (2, 3)]
    questions = [
        {"id": text, "kind": "choice", "text": words(), "code": f"code {text}", "choices": choices},
        {"id": "several", "kind": "several", "text": words(), "choices": choices},
        {"id": "order", "kind": "order", "text": words(), "shown": [1, 2, 0], "steps": steps, "why": words()},
        {"id": "number", "kind": "number", "text": words(), "answer": 1, "tolerance": 0.1, "why": words(),
         "mistakes": mistakes, "unit": text},
    ]  # fmt: skip
    return read_quiz(yaml.safe_dump({"title": words(), "questions": questions}), "my.yaml")


def quiz(text: str) -> Widget:
    """A quiz of one's own."""
    with mock.patch("course_helpers.widgets.quiz.load_quiz", return_value=quiz_of(text)):
        return widgets.Quiz("my")


def labeller(text: str) -> Widget:
    """Questions about hostile responses; what cannot be written as UTF-8 is refused before."""
    text = text.encode("utf-8", errors="replace").decode()[:19_000]
    questions = [Question(f"{n} {text}", f" A {text}", f" B {text}") for n in range(2)]
    file = Path(tempfile.mkdtemp()) / "<b>my & choices.jsonl"
    return widgets.PreferenceLabeller(questions, file)


def frontier(text: str) -> Widget:
    """Points, settings, commands and samples from a file of somebody else."""
    found = [p for p in points() if p.method in ("ppo", "reference")]
    odd = [dataclasses.replace(p, seed=k, setting=text, config=text) for k, p in enumerate(found)]
    odd += [dataclasses.replace(found[-1], method=text)]
    panel = widgets.FrontierPlot(odd, {f"ppo|{text}": (Sample(text, text, 1.0, 0.5, 2.0),)})
    panel.choose(f"ppo|{text}")
    return panel


def travel(text: str) -> Widget:
    """A journey from somebody else; `Journey.load` has refused half letters in it."""
    model, tokenizer = rogue(text, f"{text} twice", "x")
    told = text.encode("utf-8", errors="replace").decode()
    runs = [journey(model, told, told, prompts=(told, f"{told} 2"))]
    return widgets.TimeTravel(runs, model, tokenizer, text or "x")


def chat(text: str) -> Widget:
    """Models with hostile names, examples and answers."""
    model, tokenizer = rogue(text, "x")
    return widgets.ChatPanel({text: model, "x": model}, tokenizer, [(text, f"q {text}")], max_new_tokens=4)


def of_model(name: str) -> Callable[[str], Widget]:
    """A widget over a policy that writes the text, and a prompt that is the text."""

    def build(text: str) -> Widget:
        model, tokenizer = rogue(text, f"{text} twice", "x")
        return getattr(widgets, name)(model, tokenizer, text or "x")

    return build


BUILD: dict[str, Callable[[str], Widget]] = {
    "BetaExplorer": lambda text: widgets.BetaExplorer([0.5, 0.3, 0.2], [1.0, 0.0, -1.0], [text, f"{text} 2", "x"]),
    "BradleyTerry": lambda text: widgets.BradleyTerry([text, f"{text} 2"]),
    "ChatPanel": chat,
    "DecodingMicroscope": of_model("DecodingMicroscope"),
    "FrontierPlot": frontier,
    "GlossaryPanel": lambda text: widgets.GlossaryPanel(text),
    "PolicySteps": lambda text: widgets.PolicySteps([text, f"{text} 2", "x"]),
    "PreferenceLabeller": labeller,
    "PreferenceLosses": lambda text: widgets.PreferenceLosses(),
    "Quiz": quiz,
    "RatioClip": lambda text: widgets.RatioClip(),
    "RewardSliders": lambda text: widgets.RewardSliders([0.5, 0.3, 0.2], 1.0, [text, f"{text} 2", "x"]),
    "SamplingExplorer": of_model("SamplingExplorer"),
    "TimeTravel": travel,
    "WriteItYourself": of_model("WriteItYourself"),
}
