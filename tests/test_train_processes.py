"""Several processes are one, a killed run is a whole one, and a launcher that starts too few is found out."""

import json
import shutil

import numpy as np
import pytest
import torch

from course_helpers.models import load_judge
from course_helpers.runs import data, processes, settings
from tests import train_runs

CLOSE = 1e-6  # float32: sums of two halves, rounded in another order


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, small):
    """Six whole batches of pairs: of a smaller last one, two processes could not take like shares."""
    made = settings.DPOSettings(openings=16, max_new_tokens=6, pair_draws=1)
    rows = data.preference_pairs(made, *small, load_judge("small", "cpu")).rows
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows.select(range(48)).to_json(path)
    return path


@pytest.fixture(scope="module")
def settings_of(pairs):
    """What a method's runs of this file are changed by."""
    # Adam's first updates have the size of the learning rate whatever the gradient's, so they make weights of rounding
    # where a gradient is next to nothing: a small rate keeps that below the tolerance.
    slow = {"learning_rate": 5e-6}
    kept = {"keep_steps": "[0,2]", "second_judge": "second"}  # what a journey is made of
    return {"ppo": slow | kept, "dpo": slow | {"pairs": pairs}, "grpo": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings_of):
    """The folder of a method's run that nothing stopped, by one process; trained once."""
    found = {}

    def folder(method):
        if method not in found:
            found[method] = tmp_path_factory.mktemp("whole") / method
            train_runs.run(method, found[method], **settings_of[method])
        return found[method]

    return folder


@pytest.fixture(scope="module", params=["ppo", "dpo"])
def both(request, tmp_path_factory, whole, settings_of):
    """The same run by one process and by two."""
    shared = tmp_path_factory.mktemp("shared") / request.param
    done = train_runs.command(request.param, shared, 2, processes=2, **settings_of[request.param])
    assert done.returncode == 0, done.stderr[-3000:]
    return whole(request.param), shared


def test_two_processes_log_the_numbers_of_one(both):
    one, two = (train_runs.numbers(folder) for folder in both)
    assert len(one) == len(two) >= 4
    for alone, shared in zip(one, two, strict=True):
        assert alone.keys() == shared.keys()
        for name, value in alone.items():
            # a KL is a difference of log-probabilities of whole responses, which are as large as their entropy
            size = max(1.0, abs(value), alone["entropy"] if name == "kl" else 0.0)
            # a margin is one, too, of a few pairs: between numbers of that size float32 has no others
            least = float(np.spacing(np.float32(abs(alone["chosen"])))) if name == "margin" else 0.0
            assert abs(value - shared[name]) <= max(CLOSE * size, least), f"step {alone['step']}, {name}"


def test_two_processes_learn_the_weights_of_one(both):
    one, two = (train_runs.weights(folder) for folder in both)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=0, atol=CLOSE, err_msg=name)
    moved, apart = 0.0, 0.0  # B starts at 0, so it is what was learned
    for name in filter(lambda name: "lora_B" in name, one):
        moved, apart = moved + one[name].square().sum(), apart + (one[name] - two[name]).square().sum()
    assert moved.sqrt() > 1e-3
    assert (apart / moved).sqrt() < 1e-3


@pytest.mark.parametrize("method", ["ppo", "dpo", "grpo"])
def test_a_killed_run_ends_as_one_that_was_not(method, whole, settings_of, tmp_path):
    killed = tmp_path / "killed"
    train_runs.kill_after(method, killed, lines=3, **settings_of[method])
    assert not (killed / "evaluation.json").exists()
    assert 3 <= len(train_runs.metrics(killed)) < len(train_runs.metrics(whole(method)))
    train_runs.run(method, killed, **settings_of[method])
    assert train_runs.numbers(killed) == train_runs.numbers(whole(method))
    left, right = train_runs.weights(whole(method)), train_runs.weights(killed)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize(("asked", "started"), [(2, 1), (3, 2)])
def test_another_number_of_processes_is_refused(asked, started, tmp_path):
    """As when a launcher silently starts fewer: nothing is trained, nothing is written."""
    done = train_runs.command("ppo", tmp_path / "run", started, processes=asked)
    assert done.returncode != 0
    assert f"processes={asked} was asked for, but {started} {'is' if started == 1 else 'are'} running" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_number_of_processes_is_checked():
    assert processes.require_processes(None) == processes.require_processes(1) == 1
    with pytest.raises(RuntimeError, match=r"processes=2 was asked for, but 1 is running.*torchrun --nproc_per_node 2"):
        processes.require_processes(2)


def test_a_batch_must_be_shared_evenly():
    assert processes.share(12, "batch_size", 3) == 4
    with pytest.raises(ValueError, match="3 processes cannot share batch_size=10 evenly: choose a multiple, such as 9"):
        processes.share(10, "batch_size", 3)


def test_a_journey_is_measured_packed_and_travelled(whole, tmp_path, small):
    """Adapters kept on the way, and the trained one as the last stop; the first is π_ref."""
    from course_helpers.runs.journey import measure_journey
    from course_helpers.time_travel import Journey, Traveller, pack

    shutil.copytree(whole("ppo"), tmp_path / "run")
    measure_journey(tmp_path / "run")
    journey = Journey.load(pack(tmp_path / "run", tmp_path / "journey.safetensors", bits=32))
    assert list(journey.steps) == [0, 2, 6]
    assert journey.stops[0].kl == pytest.approx(0, abs=1e-6)
    final = json.loads((tmp_path / "run" / "evaluation.json").read_text())["points"][0]
    assert journey.stops[-1].reward == pytest.approx(final["reward"], abs=1e-6)
    assert journey.stops[-1].kl == pytest.approx(final["kl"], abs=1e-6)
    policy, tokenizer = small
    start = Traveller(policy).move(journey, 0)
    ids = torch.tensor([tokenizer("The film").input_ids])
    with torch.no_grad():
        assert torch.equal(start(input_ids=ids).logits, policy(input_ids=ids).logits)
