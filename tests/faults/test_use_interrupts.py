"""An interrupt in the middle of what takes long: everything is as it was, and the same call then gives the same.

`tests/test_ppo_trainer.py` interrupts the mini-batches of a PPO step, `tests/test_live.py` and
`tests/test_dpo_curves.py` the curves, `tests/test_ppo_value_head.py` a save.
"""

import copy
import os
from contextlib import contextmanager

import datasets
import pytest
import torch
from transformers.utils import logging

from course_helpers import evaluate, instruct, models, preferences
from course_helpers.dpo.training import lora_config
from course_helpers.onednn import OneDNNProducts
from course_helpers.ppo import frozen
from course_helpers.rollouts import without_dropout
from tests import dpo_runs
from tests import ppo_runs as runs


def state(*modules):
    """What no interrupt may leave behind."""
    return {
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "modes": len(torch.overrides._get_current_function_mode_stack()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "bars": (
            os.environ.get("TQDM_DISABLE"),
            datasets.are_progress_bars_disabled(),
            logging.is_progress_bar_enabled(),
        ),
        "training": [part.training for module in modules for part in module.modules()],
        "hooks": [
            (len(part._forward_hooks), len(part._forward_pre_hooks)) for module in modules for part in module.modules()
        ],
        "patched": [name for module in modules for name, part in module.named_modules() if "forward" in vars(part)],
        "adapters": [hasattr(module, "peft_config") for module in modules],
    }


@contextmanager
def interrupted_at(calls):
    """A KeyboardInterrupt at the n-th layer norm of any model, which is in the middle of a forward pass."""
    original, seen = torch.nn.LayerNorm.forward, []

    def forward(self, x):
        seen.append(1)
        if len(seen) == calls:
            raise KeyboardInterrupt
        return original(self, x)

    torch.nn.LayerNorm.forward = forward
    try:
        yield
    finally:
        torch.nn.LayerNorm.forward = original


@pytest.fixture(scope="module")
def policy():
    return dpo_runs.small_policy()


@pytest.fixture(scope="module")
def judge():
    return models.load_judge("small", "cpu")


QUERIES = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]


def calls_of(policy, judge):
    """What takes long in the lessons, each as a call that gives the same whenever it is made."""
    model, tokenizer = policy
    rows = instruct.review_rows([[1, 2, 3, 4, 5, 6]] * 8)
    drawing = {"max_new_tokens": 4, "seed": 0, "batch_size": 4}

    def tuned():
        return instruct.tune(model, tokenizer, rows, batch_size=4, lora=lora_config(model, 2)).losses

    return {
        "evaluate": lambda: evaluate.evaluate(model, model, tokenizer, judge, QUERIES, **drawing).rewards,
        "pairs": lambda: preferences.judged_pairs(model, tokenizer, judge, QUERIES, **drawing).rewards,
        "judge": lambda: models.log_odds(judge, ["a film", "a bore", "so so"]),
        "reviews": lambda: instruct.draw_reviews(model, tokenizer, count=3, tokens=5),
        "perplexity": lambda: instruct.perplexity(model, tokenizer, ["The film was a joy.", "A bore."]),
        "tune": tuned,
    }


@pytest.mark.parametrize("moment", [1, 3, 7])
@pytest.mark.parametrize("name", ["evaluate", "pairs", "judge", "reviews", "perplexity", "tune"])
def test_after_an_interrupt_all_is_as_it_was(policy, judge, name, moment):
    call, watched = calls_of(policy, judge)[name], (policy[0], judge.model)
    expected, weights, before = call(), runs.weights(policy[0]), state(*watched)
    with interrupted_at(moment), pytest.raises(KeyboardInterrupt):
        call()
    assert state(*watched) == before
    runs.assert_same(weights, runs.weights(policy[0]))
    assert str(call()) == str(expected)


@pytest.mark.parametrize("moment", [1, 15, 30])
def test_dpo_training_can_be_started_again(tmp_path, moment):
    """The trainer may be used again as it is; a new one learns what one never interrupted learns."""

    def trainer():
        model, tokenizer = dpo_runs.small_policy()
        return dpo_runs.trainer_of(tmp_path, model, tokenizer, lora=lora_config(model, 2), epochs=2)

    def losses(run):
        run.train()
        return [entry["loss"] for entry in run.state.log_history if "loss" in entry]

    expected, run = losses(trainer()), trainer()
    before = state()
    with interrupted_at(moment), pytest.raises(KeyboardInterrupt):
        run.train()
    assert state() == before
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    run.train()
    assert run.state.global_step == run.state.max_steps
    assert losses(trainer()) == expected


@pytest.mark.parametrize("moment", [1, 6, 13])
def test_a_rollout_leaves_no_hook_and_no_mode(moment):
    run = runs.trainer()
    queries = [torch.tensor(query) for query in QUERIES]
    before, drawing = state(run.model), {"max_new_tokens": 5, **runs.PURE}
    with interrupted_at(moment), pytest.raises(KeyboardInterrupt):
        run.generate(queries, return_prompt=False, **drawing)
    assert state(run.model) == before
    torch.manual_seed(0)
    drawn = run.generate(queries, return_prompt=False, **drawing)
    torch.manual_seed(0)
    fresh = runs.trainer()
    torch.manual_seed(0)
    assert all(
        torch.equal(a, b) for a, b in zip(drawn, fresh.generate(queries, return_prompt=False, **drawing), strict=True)
    )


def test_an_interrupt_while_a_model_is_being_prepared_changes_nothing(monkeypatch):
    """Between the first and the last of many submodules, or of many layers."""
    model = runs.gpt2().train()
    before = copy.deepcopy(state(model))
    original, count = torch.nn.Module.train, []

    def train(self, mode=True):
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return original(self, mode)

    monkeypatch.setattr(torch.nn.Module, "train", train)
    with pytest.raises(KeyboardInterrupt), without_dropout(model):
        pass
    monkeypatch.undo()
    assert state(model) == before

    class Interrupting(torch.nn.Module):
        def __setattr__(self, name, value):
            if name == "forward":
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    layers = [torch.nn.Linear(2, 2), Interrupting()]
    monkeypatch.setattr(frozen, "decoder_layers", lambda _: layers)
    with pytest.raises(KeyboardInterrupt), frozen.handed_in(model, 2, torch.zeros(1)):
        pass
    assert not any("forward" in vars(layer) for layer in layers)


def test_products_are_taken_over_only_inside():
    with pytest.raises(KeyboardInterrupt), OneDNNProducts():
        raise KeyboardInterrupt
    assert not torch.overrides._get_current_function_mode_stack()
