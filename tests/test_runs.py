"""Settings, folders, data and measurements of runs; the trainings themselves are in test_train_processes."""

import io
import json
import math
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from course_helpers import train
from course_helpers.evaluate import Evaluation, Interval
from course_helpers.runs import data, folder, measure, online, sampled, settings
from course_helpers.runs.job import Job
from course_helpers.runs.progress import Progress

CONFIGS = Path(__file__).parents[1] / "configs"

# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("scale", ["small", "full"])
@pytest.mark.parametrize("method", settings.METHODS)
def test_every_method_has_settings_for_both_scales(scale, method):
    made = settings.make(method, CONFIGS / scale / f"{method}.yaml")
    assert isinstance(made, settings.METHODS[method])
    assert (made.policy == "small") == (scale == "small")


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    file = tmp_path / "dpo.yaml"
    file.write_text("method: dpo\nbeta: 0.5\nseed: 3\n")
    made = settings.make("dpo", file, ["seed=4", "learning_rate=1e-4", "openings=null"])
    assert (made.beta, made.seed, made.learning_rate, made.openings) == (0.5, 4, 1e-4, None)
    assert made.batch_size == settings.DPOSettings().batch_size


@pytest.mark.parametrize("method", settings.METHODS)
def test_differences_repeat_the_run(method):
    changed = {"seed": 7, "openings": 30, "prompt_tokens": [3, 5], "second_judge": None, "learning_rate": 2.5e-5}
    made = settings.make(method, None, changed)
    told = settings.differences(made)
    assert settings.make(method, None, told) == made
    assert all(" " not in word for word in told)
    assert settings.differences(settings.METHODS[method]()) == []


@pytest.mark.parametrize("method", settings.METHODS)
def test_every_setting_is_explained(method):
    told = settings.explain(method)
    for each in fields(settings.METHODS[method]):
        assert f"  {each.name} " in told
        assert len(each.metadata["meaning"]) > 5


BAD = [
    ("dpo", ["bета=1"], "no setting 'bета'"),
    ("dpo", ["bet=1"], "did you mean beta"),
    ("dpo", ["beta=0"], "beta is 0"),
    ("dpo", ["beta=soon"], "beta is 'soon'; it must be a number"),
    ("dpo", ["beta=true"], "beta is True; it must be a number"),
    ("dpo", ["seed=1.5"], "seed is 1.5; it must be a whole number"),
    ("dpo", ["seed=-1"], "seed is -1"),
    ("dpo", ["seed"], "'seed' is no setting; write it as key=value"),
    ("dpo", ["=1"], "is no setting"),
    ("dpo", ["batch_size=0"], "batch_size is 0"),
    ("dpo", ["learning_rate=nan"], "learning_rate is nan"),
    ("dpo", ["learning_rate=-1e-3"], "learning_rate is -0.001"),
    ("dpo", ["prompt_tokens=[8,2]"], "the smaller one first"),
    ("dpo", ["prompt_tokens=3"], "two numbers of tokens"),
    ("dpo", ["lora_rank=0"], "lora_rank is 0"),
    ("dpo", ["lora_rank=null", "keep_steps=[1]"], "keep_steps keeps adapters"),
    ("dpo", ["keep_steps=[-1]"], "keep_steps is"),
    ("dpo", ["least_difference=-1"], "least_difference is -1"),
    ("dpo", ["epochs=0"], "epochs is 0"),
    ("dpo", ["steps=3"], "dpo has no setting 'steps'"),
    ("ppo", ["steps=0"], "steps is 0"),
    ("ppo", ["target_kl=0"], "target_kl is 0"),
    ("ppo", ["bf16=2"], "bf16 is 2; it must be true or false"),
    ("grpo", ["group=1"], "group is 1"),
    ("grpo", ["group=7"], "batch_size is 64; it must be a multiple of group, 7"),
    ("grpo", ["scale_rewards=some"], "scale_rewards is 'some'; it must be one of group, batch, none"),
    ("best-of-n", ["n=[]"], "n is ()"),
    ("best-of-n", ["n=[0]"], "n is (0,)"),
    ("sft", ["texts=[1]"], "texts is [1]; it must be a text"),
    ("dqo", [], "there is no method 'dqo'"),
]


@pytest.mark.parametrize(("method", "changes", "words"), BAD)
def test_a_bad_setting_is_named(method, changes, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are looked at below
        settings.make(method, None, changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("beta: [", "no YAML at line"),
        ("- 1\n", "expected lines of the form"),
        ("method: ppo\n", "is for 'ppo', not for 'dpo'"),
        ("bta: 1\n", "did you mean beta"),
        ("beta: !!python/object/apply:os.getcwd []\n", "no YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, words):
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=words):
        settings.make("dpo", file)


def test_the_courses_settings_are_found_from_any_folder(tmp_path, monkeypatch):
    here = settings.make("dpo", CONFIGS / "small" / "dpo.yaml")
    monkeypatch.chdir(tmp_path)
    assert settings.make("dpo", "configs/small/dpo.yaml") == here
    own = tmp_path / "configs" / "small" / "dpo.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("beta: 0.25\n")  # what stands here comes first
    assert settings.make("dpo", "configs/small/dpo.yaml").beta == 0.25


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        settings.make("dpo", tmp_path / "none.yaml")


# -------------------------------------------------------------------------------------------------------------- folder


@pytest.fixture
def dpo():
    return settings.DPOSettings()


def test_a_folder_says_what_the_run_was_made_of(tmp_path, dpo):
    place = folder.RunFolder(tmp_path / "run", "dpo", dpo)
    assert yaml.safe_load((place.path / "config.yaml").read_text()) == {"method": "dpo"} | settings.as_dict(dpo)
    known = json.loads((place.path / "versions.json").read_text())
    assert known["packages"]["torch"] == torch.__version__
    assert place.points() is None


def test_a_folder_refuses_another_run(tmp_path, dpo):
    folder.RunFolder(tmp_path / "run", "dpo", dpo)
    folder.RunFolder(tmp_path / "run", "dpo", settings.DPOSettings(processes=1))  # as many as come
    with pytest.raises(ValueError, match=r"holds a run with beta 0.3 \(now 0.5\)"):
        folder.RunFolder(tmp_path / "run", "dpo", settings.DPOSettings(beta=0.5))
    with pytest.raises(ValueError, match="holds a run with method 'dpo'"):
        folder.RunFolder(tmp_path / "run", "preferred-ft", settings.PreferredFTSettings())


def test_a_folder_with_something_else_is_left_alone(tmp_path, dpo):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        folder.RunFolder(tmp_path, "dpo", dpo)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_came_after_a_checkpoint_is_forgotten(tmp_path, dpo):
    place = folder.RunFolder(tmp_path / "run", "dpo", dpo)
    for step in range(1, 6):
        place.log(step, seconds=2.0 * step, loss=1 / step, odd=math.inf)
        place.sample(step, [{"prompt": "A film", "response": f" № {step}"}])
    with (place.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "sec')  # killed here
    assert place.go_on_after(3)["seconds"] == 6.0
    assert [line["step"] for line in place.metrics()] == [1, 2, 3]
    assert place.metrics()[0] == {"step": 1, "seconds": 2.0, "loss": 1.0, "odd": None}
    assert "№ 3" in (place.path / "samples.jsonl").read_text()
    assert "№ 4" not in (place.path / "samples.jsonl").read_text()


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path, dpo):
    place = folder.RunFolder(tmp_path / "run", "dpo", dpo, write=False)
    place.log(1, loss=1.0)
    place.finish([])
    assert not place.path.exists()


# ---------------------------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def tokenizer(small):
    return small[1]


def test_cuts_are_beginnings_in_tokens(tokenizer):
    texts = data.openings(settings.Settings()).unseen[:5]
    found = data.cuts(texts, tokenizer, 2, 8)
    assert len(found) == len(set(found))
    rows = tokenizer(texts).input_ids
    assert set(found) == {tokenizer.decode(ids[:n]) for ids in rows for n in range(2, 9) if n < len(ids)}


def test_no_unseen_opening_is_trained_on(tokenizer):
    plain = settings.Settings()
    train_openings, unseen = data.openings(plain)
    assert len(unseen) == plain.held_out
    assert not set(train_openings) & set(unseen)
    assert settings.SFTSettings().texts == plain.prompts
    assert data.texts_to_imitate("small", plain) == train_openings


def test_prompts_for_evaluation_are_spread_over_all_openings(tokenizer):
    found = data.unseen_prompts(settings.Settings(), tokenizer)
    assert len(found) == len(set(found)) == 278
    unseen = data.openings(settings.Settings()).unseen
    begun = [any(opening.startswith(text) for text in found) for opening in unseen]
    assert np.mean(begun) > 0.95
    with pytest.raises(ValueError, match="fewer than evaluation_prompts=600"):
        data.unseen_prompts(settings.Settings(evaluation_prompts=600), tokenizer)


def test_too_many_openings_cannot_be_held_out():
    with pytest.raises(ValueError, match="held_out=480, but there are 480"):
        data.openings(settings.Settings(held_out=480))


# -------------------------------------------------------------------------------------------------------- measurements


def seen(rewards, kls=None):
    """An evaluation of made-up responses, (N, K) rewards."""
    table = np.asarray(rewards, dtype=float)
    n, k = table.shape
    flat = table.ravel()
    kls = np.zeros(n * k) if kls is None else np.ravel(kls)
    return Evaluation(
        "POSITIVE", Interval.bootstrap(measure.probability(table)), Interval.bootstrap(table),
        Interval.bootstrap(kls.reshape(n, k)), 1.0, 1.0, 3.0, tuple(f"query {i}" for i in range(n)),
        tuple(f" word{i}" for i in range(n * k)), tuple(measure.probability(flat)), tuple(flat), tuple(kls),
    )  # fmt: skip


def test_probability_undoes_log_odds():
    p = np.array([0.01, 0.5, 0.93])
    np.testing.assert_allclose(measure.probability(np.log(p / (1 - p))), p, atol=1e-15)


def test_wins_are_those_of_all_pairs():
    ours, theirs = np.array([[1.0, -1.0], [2.0, 0.5]]), np.array([[0.0, 1.0, -3.0], [2.0, 2.0, 2.0]])
    np.testing.assert_allclose(measure.wins(ours, theirs), [[2.5 / 3, 1 / 3], [0.5, 0.0]])


def test_texts_are_of_the_same_prompts_whatever_the_count():
    one, four = seen(np.zeros((20, 1))), seen(np.zeros((20, 4)))
    assert [t["prompt"] for t in measure.texts(one, None)] == [t["prompt"] for t in measure.texts(four, None)]


def test_draws_are_those_of_an_evaluation(small):
    """Two ways to the same responses: with the KL, and without it."""
    made = settings.DPOSettings(evaluation_prompts=10, evaluation_count=2, max_new_tokens=5, seed=3)
    job = Job("dpo", made, folder=None)
    job.loaded = small
    long, short = measure.evaluation_of(job, small[0]), measure.draws(job, small[0], 3, 2)
    assert list(long.queries) == short.prompts
    assert list(long.responses) == short.responses
    np.testing.assert_allclose(short.rewards.ravel(), long.rewards, atol=1e-5)


def test_best_of_n_by_enumeration():
    """Expected best of n = the mean over all subsets of n draws, for the second judge's numbers, too."""
    rng = np.random.default_rng(0)
    rewards, second, theirs = rng.normal(size=(5, 6)), rng.normal(size=(5, 6)), rng.normal(size=(5, 2))
    words = [f" word{i}" for i in range(30)]
    drawn = measure.Draws([f"query {i}" for i in range(5)], words, [torch.tensor([i, 1]) for i in range(30)], rewards)
    found = sampled.best_of(3, drawn, second, theirs)
    subsets = list(combinations(range(6), 3))
    best = [[max(c, key=lambda place, i=i: rewards[i, place]) for c in subsets] for i in range(5)]

    def expected(table):
        return np.mean([[table[i, place] for place in best[i]] for i in range(5)])

    assert found["reward"] == pytest.approx(expected(rewards), abs=1e-12)
    assert found["second_reward"] == pytest.approx(expected(second), abs=1e-12)
    assert found["win_rate"] == pytest.approx(expected((rewards[:, :, None] > theirs[:, None, :]).mean(2)), abs=1e-12)
    assert found["kl"] == found["kl_low"] == found["kl_high"] == pytest.approx(math.log(3) - 2 / 3)
    assert found["texts"][0]["response"].startswith(" word")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (settings.DPOSettings(beta=0.05), "β = 0.05"),
        (settings.PPOSettings(beta=1.0), "β = 1"),
        (settings.PPOSettings(target_kl=6.0), "target KL 6"),
        (settings.SFTSettings(), "1 epoch"),
        (settings.PreferredFTSettings(epochs=3), "3 epochs"),
    ],
)
def test_a_point_is_named_after_what_one_turns(made, words):
    assert measure.name_of(made) == words


# ---------------------------------------------------------------------------------------------------- drawing, progress


def test_darts_depend_on_seed_and_step_alone():
    ppo = settings.PPOSettings(batch_size=8, max_new_tokens=5)
    first = online.darts_of(ppo, 3)
    assert first.shape == (8, 5)
    assert torch.equal(first, online.darts_of(ppo, 3))
    assert not torch.equal(first, online.darts_of(ppo, 4))
    assert not torch.equal(first, online.darts_of(settings.PPOSettings(batch_size=8, max_new_tokens=5, seed=1), 3))
    assert 0 <= first.min() < first.max() < 1


def test_what_a_dart_draws_does_not_depend_on_its_neighbours(small):
    from course_helpers.ppo.rollout import generate_responses

    policy, tokenizer = small
    queries = [torch.tensor(tokenizer(text).input_ids) for text in ("The film", "I never", "A", "This was a very")]
    darts = torch.rand((4, 6), generator=torch.Generator().manual_seed(0))
    drawing = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": 6}
    pad = tokenizer.pad_token_id
    together = generate_responses(policy, queries, pad, darts, **drawing)
    for row, query in enumerate(queries):
        alone = generate_responses(policy, [query], pad, darts[row : row + 1], **drawing)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()
    with pytest.raises(ValueError, match="darts draw from the policy itself"):
        generate_responses(policy, queries, pad, darts, do_sample=True, top_k=5, max_new_tokens=6)


def test_darts_draw_from_the_distribution():
    """Evenly spread darts give each token its probability."""
    from course_helpers.ppo.rollout import Draw

    probabilities = torch.tensor([0.1, 0.25, 0.05, 0.6])
    darts = (torch.arange(2000)[:, None] + 0.5) / 2000
    drawn = Draw(darts)(torch.zeros(2000, 1), probabilities.log().repeat(2000, 1)).argmax(1)
    np.testing.assert_allclose(torch.bincount(drawn, minlength=4) / 2000, probabilities, atol=1e-3)


def test_progress_says_what_is_left():
    progress = Progress("dpo", 100, done=20, stream=io.StringIO())
    assert progress.line(60, 80.0, loss=0.5) == "dpo: step 60 of 100, 2.00 s a step, 1:20 left  loss 0.5"
    for step in range(21, 101):
        progress.update(step, loss=0.5)
    lines = progress.stream.getvalue().splitlines()
    assert len(lines) == 9  # one a tenth
    assert "step 100 of 100" in lines[-1]


# ---------------------------------------------------------------------------------------------------------------- train


def test_the_command_line_tells_what_is_wrong(capsys, tmp_path):
    assert train.main(["dpo", "--folder", str(tmp_path / "run"), "beta=-1"]) == 2
    assert "dpo: beta is -1" in capsys.readouterr().err
    assert train.main(["ppo", "--folder", str(tmp_path / "run"), "processes=4"]) == 2
    assert "processes=4 was asked for, but 1 is running" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_are_explained_without_training(capsys):
    assert train.main(["grpo", "--explain"]) == 0
    assert "scale_rewards" in capsys.readouterr().out
