"""A run that was stopped and went on equals one that never stopped, to the last bit; nothing half-read gets in."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from course_helpers.ppo import state
from tests import ppo_runs as runs

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]


def gpt2_run(**changes):
    return build(runs.with_head(runs.gpt2()), **changes)


def build(model, scheduled=False, count=20, **changes):
    settings = {"dataset": runs.samples(count), "data_collator": runs.columns}
    if scheduled:
        settings["optimizer"] = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.99))
        settings["lr_scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(settings["optimizer"], T_max=10)
    changes = {"use_score_scaling": True, "use_score_norm": True, "horizon": 100.0} | changes
    return runs.trainer(model, settings=settings, **changes)


RUNS = {
    "GPT-2": gpt2_run,
    "Llama": lambda: build(runs.with_head(runs.llama())),
    "LoRA": lambda: build(runs.lora(runs.gpt2())),
    "scheduler": lambda: gpt2_run(scheduled=True),
    "fixed coefficient": lambda: gpt2_run(adap_kl_ctrl=False),
}


def shuffle_generators(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def without_times(stats):
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in stats]


def whole_state(run):
    """All that a run is, but the seconds its steps took."""
    found = runs.fingerprint(run)
    found["count"] = run.current_step, without_times(run.stats_all)
    found["scheduler"] = run.lr_scheduler.state_dict() if run.lr_scheduler else None
    return found


# ------------------------------------------------------------------------------------------------------- stop and go on


@pytest.mark.parametrize("stop", [2, 3])  # between two passes over the data, of two batches each, and within one
@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_goes_on_as_if_it_had_not(name, stop, tmp_path):
    straight = RUNS[name]()
    runs.train(straight, 6)
    expected = whole_state(straight)

    stopped = RUNS[name]()
    runs.train(stopped, stop)
    stopped.save_state(tmp_path / "run" / "state.safetensors")  # the folder is made
    shuffle_generators(99)
    resumed = RUNS[name]()
    shuffle_generators(98)
    resumed.load_state(tmp_path / "run" / "state.safetensors")
    runs.train(resumed, 6)
    runs.assert_same(expected, whole_state(resumed))


def test_saving_changes_nothing(tmp_path):
    run = gpt2_run()
    runs.train(run, 2)
    before = runs.fingerprint(run)
    run.save_state(tmp_path / "state.safetensors")
    runs.assert_same(before, runs.fingerprint(run))
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_negative_kl_is_counted_across_a_stop(tmp_path):
    run = gpt2_run()
    run._negative_kl = 2
    run.save_state(tmp_path / "state.safetensors")
    resumed = gpt2_run()
    resumed.load_state(tmp_path / "state.safetensors")
    assert resumed._negative_kl == 2


def test_an_adapters_state_holds_the_adapter_and_the_head_alone(tmp_path):
    run = RUNS["LoRA"]()
    run.save_state(tmp_path / "state.safetensors")
    names = [name for name in load_file(tmp_path / "state.safetensors") if name.startswith("model/")]
    assert names
    assert all("lora_" in name or "v_head" in name for name in names)


def test_a_state_is_plain_tensors_and_json(tmp_path):
    run = gpt2_run()
    runs.train(run, 1)
    run.save_state(tmp_path / "state.safetensors")
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["current_step"] == 1
    assert facts["kl_coef"] == run.kl_ctl.value
    tensors = load_file(tmp_path / "state.safetensors")
    for name, p in run.model.named_parameters():
        assert torch.equal(tensors[f"model/{name}"], p)


# ---------------------------------------------------------------------------------------------------------- killed runs


def test_a_run_killed_twenty_times_equals_one_never_killed(tmp_path):
    """SIGKILL between steps, within them, and while the state is written; see `ppo_runs.kill_at_random`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.ppo_runs", "kills", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    killed, unfinished = map(int, re.search(r"killed (\d+) unfinished (\d+)", done.stdout).groups())
    assert killed == runs.KILLS
    assert unfinished > 0, "no kill fell into the writing of a state"
    left, right = (read_state(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    runs.assert_same(left, right)


def read_state(path):
    tensors, facts = state.read(path)
    return tensors, facts | {"stats_all": without_times(facts["stats_all"])}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path, facts = tmp_path / "state.safetensors", dict.fromkeys(state.FACTS, 0)
    state.write(path, {"x": torch.zeros(2)}, facts)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        state.write(path, {"x": torch.ones(2)}, dict.fromkeys(state.FACTS, 1))
    tensors, found = state.read(path)
    assert found == facts
    assert tensors["x"].tolist() == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


# ---------------------------------------------------------------------------------------------------------- unfit files


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def other_header(path):
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"#" * 20 + data[28:])


UNFIT = {
    "no file": (
        lambda path: path.unlink(),
        FileNotFoundError,
        "there is no saved state .*save one with trainer.save_st",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), FileNotFoundError, "there is no saved state"),
    "nothing in it": (lambda path: path.write_bytes(b""), ValueError, "is damaged or no saved state"),
    "text": (lambda path: path.write_text("a film " * 99), ValueError, "is damaged or no saved state"),
    "cut short": (cut(0.99), ValueError, "is damaged or no saved state .*take another copy"),
    "cut in half": (cut(0.5), ValueError, "is damaged or no saved state"),
    "cut in its header": (cut(0.001), ValueError, "is damaged or no saved state"),
    "a damaged header": (other_header, ValueError, "is damaged or no saved state"),
    "a model's weights": (
        lambda path: save_file(dict(runs.gpt2().named_parameters()), path, metadata={"format": "pt"}),
        ValueError,
        r"is not a trainer's state: model weights are read by from_pretrained\(\)",
    ),
    "another family": (
        lambda path: RUNS["Llama"]().save_state(path),
        ValueError,
        "is of another model .*build the trainer as it was",
    ),
    "another width": (
        lambda path: build(runs.with_head(runs.gpt2(n_embd=8))).save_state(path),
        ValueError,
        r"is of another model \(.* differs\)",
    ),
    "an adapter": (lambda path: RUNS["LoRA"]().save_state(path), ValueError, "is of another model"),
    "a frozen layer": (
        lambda path: runs.trainer(settings={"num_shared_layers": 1}).save_state(path),
        ValueError,
        "is of another model",
    ),
    "a scheduler": (lambda path: RUNS["scheduler"]().save_state(path), ValueError, "differ in having an lr_scheduler"),
    "two groups": (lambda path: in_two_groups().save_state(path), ValueError, "optimizer|parameter group"),
}


def in_two_groups():
    model = runs.with_head(runs.gpt2())
    groups = [{"params": model.pretrained_model.parameters()}, {"params": model.v_head.parameters(), "lr": 0.1}]
    run = runs.trainer(model, settings={"optimizer": torch.optim.Adam(groups, lr=0.01)})
    run.step(*runs.rollouts())
    return run


@pytest.mark.parametrize("name", UNFIT)
def test_an_unfit_file_is_refused_and_nothing_changes(name, tmp_path):
    spoil, kind, message = UNFIT[name]
    path = tmp_path / "state.safetensors"
    run = gpt2_run()
    run.step(*runs.rollouts())
    run.save_state(path)
    spoil(path)
    run.step(*runs.rollouts(1))
    before = runs.fingerprint(run)
    with pytest.raises(kind, match=message):
        run.load_state(path)
    runs.assert_same(before, runs.fingerprint(run))


def test_the_order_of_a_data_set_is_that_of_the_seed_and_the_pass():
    """What a resumed run relies on: nothing drawn elsewhere changes the order, and each pass has its own."""
    orders = []
    for seed in (0, 0, 1):
        shuffle_generators(len(orders))
        batches = runs.trainer(settings={"dataset": runs.samples(20)}, seed=seed).batches
        orders.append([list(batches), list(batches)])
    assert orders[0] == orders[1] != orders[2]
    first, second = orders[0]
    assert first != second
    assert [len(batch) for batch in first] == [8, 8]
    assert len({index for batch in first for index in batch}) == 16
