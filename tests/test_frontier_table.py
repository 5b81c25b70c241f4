"""The shipped points: a table reads back as it was written, says what is wrong with it, and combines seeds rightly."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from course_helpers.frontier import table
from course_helpers.frontier.table import COLUMNS, Point, load_points, load_samples, over_seeds, pareto, save_points


def made(method="ppo", setting="β = 0.1", seed=0, **changed) -> Point:
    """A point whose measures are 0.5 ± 0.1, with an uneven KL."""
    measures = {f"{name}{end}": value for name in table.MEASURES
                for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.6))}  # fmt: skip
    values = measures | {"kl": 2.0, "kl_low": 1.9, "kl_high": 2.3} | changed
    return Point(
        method=method, setting=setting, seed=seed, prompts=values.pop("prompts", 256), responses=512, **values,
        distinct_2=values.pop("distinct_2", 0.9), length=15.5, seconds=12.25, memory_gb=0.7, drawn=4096, judged=4096,
        config=f"method={method}, β = 0.1",
    )  # fmt: skip


def shifted(point: Point, name: str, by: float) -> Point:
    return replace(point, **{f"{name}{end}": getattr(point, f"{name}{end}") + by for end in ("", "_low", "_high")})


def at(kl: float, reward: float, method="ppo", setting=None, **changed) -> Point:
    point = made(method, setting or f"{kl} nats, {reward}", **changed)
    return shifted(shifted(point, "kl", kl - 2.0), "reward", reward - 0.5)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# ------------------------------------------------------------------------------------------------------ read and write


def test_columns_are_those_of_the_format():
    assert ",".join(COLUMNS) == (
        "method,setting,seed,prompts,responses,reward,reward_low,reward_high,probability,probability_low,"
        "probability_high,second_reward,second_reward_low,second_reward_high,second_probability,second_probability_low,"
        "second_probability_high,kl,kl_low,kl_high,win_rate,win_rate_low,win_rate_high,distinct_2,length,seconds,"
        "memory_gb,drawn,judged,config"
    )


def test_points_read_back_bit_by_bit(tmp_path):
    rng = np.random.default_rng(0)
    points = [
        shifted(made(method, f'n = {seed}, "quoted"', seed), "reward", float(rng.normal()))
        for method in table.METHODS
        for seed in range(3)
    ]
    save_points(points, tmp_path / "points.csv")
    assert load_points(tmp_path / "points.csv") == points
    assert b"\r" not in (tmp_path / "points.csv").read_bytes()
    assert points[0].key == 'reference|n = 0, "quoted"'


def test_columns_may_stand_in_another_order(tmp_path):
    with (tmp_path / "points.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[::-1])
        writer.writeheader()
        writer.writerow(asdict(made()))
    assert load_points(tmp_path / "points.csv") == [made()]


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("reward", "0,5", r"points.csv, line 3: reward is '0,5'; write a number, with a point for decimals"),
        ("reward", "", r"line 3: reward is ''; write a number"),
        ("kl", "nan", r"line 3: kl is nan; it must be a finite number"),
        ("seconds", "inf", r"line 3: seconds is inf; it must be a finite number"),
        ("seed", "1.0", r"line 3: seed is '1.0'; write a whole number"),
        ("drawn", "-1", r"line 3: drawn is -1; it must be a whole number, at least 0"),
        ("prompts", "255", r"line 3: measured on 255 prompts.*evaluate again on at least 256"),
        (
            "reward_low",
            "0.51",
            r"line 3: reward 0.5 does not lie between reward_low 0.51 and reward_high 0.6; exchange",
        ),
        ("second_reward_high", "0.49", r"line 3: second_reward 0.5 does not lie between"),
        ("probability_high", "60", r"line 3: probability_high is 60.0; it must be a share from 0 to 1, not per cent"),
        ("kl_low", "-0.1", r"line 3: kl_low is -0.1; it must be 0 or more"),
        ("method", "PPO", r"line 3: method is 'PPO'; it must be one of reference, sft"),
        ("setting", "", r"line 3: setting is ''; it must be text on one line"),
        ("setting", "β =\n0.1", r"setting is 'β =\\n0.1'; it must be text on one line"),
        ("seed", "0", r"line 3: ppo, β = 0.1, seed 0 stands in points.csv, line 2 already; remove one"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, column, cell, message):
    path = tmp_path / "points.csv"
    save_points([made(), made(seed=1)], path)
    rows = rows_of(path)
    rows[2][COLUMNS.index(column)] = cell
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=message):
        load_points(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda rows: [row[1:] for row in rows], "line 1: the column 'method' is missing"),
        (lambda rows: [[*row, "x"] for row in rows], "line 1: the columns are .*, x; expected each of these once"),
        (lambda rows: [rows[0], [*rows[1], "x"]], "line 2: 31 cells, but 30 columns; quote"),
        (lambda rows: [rows[0], rows[1][:-2]], "line 2: 28 cells, but 30 columns"),
        (lambda rows: rows[:1], "there are no points"),
        (lambda rows: [], "the column 'method' is missing"),
    ],
)
def test_a_bad_table_is_named(tmp_path, edit, message):
    path = tmp_path / "points.csv"
    save_points([made()], path)
    rows = edit(rows_of(path))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=message):
        load_points(path)


def test_a_bad_point_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="point 2: measured on 32 prompts"):
        save_points([made(), made(seed=1, prompts=32)], tmp_path / "points.csv")
    assert not (tmp_path / "points.csv").exists()
    save_points([made(prompts=32)], tmp_path / "points.csv", least_prompts=32)
    assert load_points(tmp_path / "points.csv", least_prompts=32)[0].prompts == 32


# ---------------------------------------------------------------------------------------------------------- over seeds


def test_quantiles_of_students_distribution():
    known = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451, 5: 2.5705818, 10: 2.2281389, 30: 2.0422725}
    assert {degrees: table.t_quantile(degrees) for degrees in known} == pytest.approx(known, rel=1e-7)
    assert table.t_quantile(100_000) == pytest.approx(1.959964, abs=1e-4)


def test_quantiles_are_those_of_an_independent_implementation():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 3, 6, 7, 50):
        assert table.t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_interval_over_three_seeds_by_hand():
    """Means 0.4, 0.5, 0.6: s = 0.1, a = 4.3027 · 0.1/√3; the queries' b is 0.1 on both sides."""
    points = [shifted(made(seed=seed), "reward", by) for seed, by in enumerate((-0.1, 0.0, 0.1))]
    (both,) = over_seeds(points[::-1])
    half = math.hypot(4.30265273 * 0.1 / math.sqrt(3), 0.1)
    assert both.reward == pytest.approx(0.5)
    assert both.reward_high - both.reward == pytest.approx(half, rel=1e-7)
    assert both.reward - both.reward_low == pytest.approx(half, rel=1e-7)
    assert (both.kl_low, both.kl, both.kl_high) == pytest.approx((1.9, 2.0, 2.3))  # equal seeds: the queries' error
    assert both.seeds == (0, 1, 2)
    assert both.points == tuple(points)


def test_interval_covers_the_truth_at_least_as_often_as_it_says():
    """Training luck of 0.2, query luck of 0.1 that all three seeds share: 95 % of the intervals must hold the truth."""
    rng, covered, repeats = np.random.default_rng(1), 0, 2000
    for _ in range(repeats):
        shared = rng.normal(0, 0.1)
        means = 0.5 + shared + rng.normal(0, 0.2, size=3)
        low, _, high = table._interval([(m - 0.196, m, m + 0.196) for m in means])
        covered += low <= 0.5 <= high
    assert 0.94 <= covered / repeats <= 0.995


def test_no_end_leaves_what_is_possible():
    points = [shifted(made(seed=seed, kl_low=1.0), "probability", by) for seed, by in enumerate((-0.4, 0.4))]
    (both,) = over_seeds([shifted(points[0], "kl", -1.0), shifted(points[1], "kl", 4.0)])
    assert (both.kl_low, both.probability_low, both.probability_high) == (0.0, 0.0, 1.0)
    assert both.kl_high > 10  # two seeds that far apart say little


def test_a_single_seed_keeps_the_interval_of_its_queries():
    bound = made("best-of-n", "n = 4", kl=0.636, kl_low=0.636, kl_high=0.636)
    (alone,) = over_seeds([bound])
    assert (alone.reward_low, alone.reward, alone.reward_high) == pytest.approx((0.4, 0.5, 0.6))
    assert alone.kl_low == alone.kl == alone.kl_high == 0.636


def test_settings_stay_apart_and_costs_are_means():
    points = [made("dpo"), replace(made(seed=1), seconds=20.25, memory_gb=0.9), made("ppo"), made("ppo", "β = 1")]
    found = over_seeds(points)
    assert [one.key for one in found] == ["dpo|β = 0.1", "ppo|β = 0.1", "ppo|β = 1"]
    assert (found[1].seconds, found[1].memory_gb, found[1].drawn) == (16.25, 0.9, 4096)
    assert over_seeds([]) == []


# --------------------------------------------------------------------------------------------------------------- pareto


def test_pareto_by_hand():
    points = [at(3, 2.0), at(1, 1.0), at(2, 0.9), at(2, 1.5), at(3, 1.9), at(0, -1.0)]
    assert [(p.kl, p.reward) for p in pareto(points)] == [(0, -1.0), (1, 1.0), (2, 1.5), (3, 2.0)]
    assert pareto(pareto(points)) == pareto(points)
    assert len(pareto([at(1, 1.0), at(1, 1.0, "dpo")])) == 2  # neither beats the other
    assert [p.second_reward for p in pareto(points, "second_reward")] == [0.5]  # all equal: the smallest KL wins


def test_pareto_is_what_no_other_beats():
    rng = np.random.default_rng(2)
    points = [
        at(float(kl), float(reward)) for kl, reward in zip(rng.uniform(0, 9, 60), rng.normal(size=60), strict=True)
    ]
    kept = pareto(points)
    for point in points:
        beaten = any(p.kl < point.kl and p.reward > point.reward for p in points)
        assert beaten != (point in kept)
    assert pareto(over_seeds(points)) == over_seeds(kept)
    with pytest.raises(ValueError, match="measure is 'kl'; it must be one of reward"):
        pareto(points, "kl")


# -------------------------------------------------------------------------------------------------------------- samples


SAMPLE = {"prompt": "This film", "response": " <b>is</b> good", "reward": 1.5, "second_reward": 1, "kl": 0.25}


def written(tmp_path, content):
    path = tmp_path / "samples.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_samples_are_found_under_the_key_of_their_point(tmp_path):
    found = load_samples(written(tmp_path, {"ppo|β = 0.1": [SAMPLE, SAMPLE], "dpo|β = 0.1": [SAMPLE, SAMPLE]}))
    assert found[made().key] == (table.Sample(**SAMPLE),) * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "samples.json is not JSON"),
        ([SAMPLE], "must be an object"),
        ({"a|b": []}, "each list with a sample"),
        ({"a|b": [{"prompt": "x"}]}, r"a\|b, sample 1: expected the fields prompt, response"),
        ({"a|b": [SAMPLE, SAMPLE | {"kl": "0.25"}]}, r"a\|b, sample 2: kl is '0.25'; it must be a finite number"),
        ({"a|b": [SAMPLE | {"reward": math.nan}]}, "reward is nan"),
        ({"a|b": [SAMPLE | {"response": None}]}, "response is None; it must be text"),
        ({"a|b": [SAMPLE], "a|c": [SAMPLE | {"prompt": "That"}]}, r"a\|c: its prompts are not those of a\|b"),
    ],
)
def test_bad_samples_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_samples(written(tmp_path, content))
