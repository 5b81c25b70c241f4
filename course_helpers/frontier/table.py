"""The shipped points: what each method, trained with the small models, reached in reward and KL, and at what cost.

    points.csv → `load_points` → one `Point` a run → `over_seeds` → one `Combined` a setting → `pareto`
    samples.json → `load_samples` → what the policies of those points write

A point is a mean over queries that training has not seen, with an interval that says how far other queries would have
moved it. Another seed of the same training moves it, too: `over_seeds` puts both errors together.

The files are plain text and may have been edited by hand, so they are read strictly: the first row that cannot be
right is named by its line, with what to do about it.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from course_helpers.assets import asset
from course_helpers.checks import check_whole, is_finite, require

METHODS = ("reference", "sft", "preferred-ft", "best-of-n", "dpo", "ppo", "grpo")
MEASURES = ("reward", "probability", "second_reward", "second_probability", "kl", "win_rate")
LEAST_PROMPTS = 256  # fewer leave a mean so uncertain that no two methods can be told apart

_TEXTS = ("method", "setting", "config")
_COUNTS = ("seed", "prompts", "responses", "drawn", "judged")
_SHARES = ("probability", "second_probability", "win_rate", "distinct_2")  # these lie between 0 and 1
_COSTS = ("length", "seconds", "memory_gb")  # these and the KL are never below 0


# -------------------------------------------------------------------------------------------------------------- points


@dataclass(frozen=True)
class Point:
    """One policy, measured: a row of ``points.csv``, whose columns are these attributes in this order.

    Every ``…_low`` and ``…_high`` are the ends of a 95 % interval bootstrapped over the queries.

    Attributes:
        method: one of `METHODS`.
        setting: what tells the points of a method apart, such as "β = 0.1".
        seed: of the training; 0 where there is none.
        prompts: queries measured on.
        responses: responses measured on.
        reward: mean log-odds of POSITIVE by the judge that trains.
        reward_low: see above, as for all that end so.
        reward_high: see above.
        probability: mean P(POSITIVE) by the same judge.
        probability_low: see above.
        probability_high: see above.
        second_reward: mean log-odds by the judge that only measures.
        second_reward_low: see above.
        second_reward_high: see above.
        second_probability: mean P(POSITIVE) by that judge.
        second_probability_low: see above.
        second_probability_high: see above.
        kl: KL(π_θ‖π_ref) in nats a response; of best-of-n, the bound on it, without error.
        kl_low: see above.
        kl_high: see above.
        win_rate: share of responses that the judge that trains prefers to one of π_ref, ties counted half.
        win_rate_low: see above.
        win_rate_high: see above.
        distinct_2: different pairs of neighbouring tokens over all such pairs.
        length: mean tokens of a response.
        seconds: of the processor, all threads together, for the training with all that it draws; on a GPU on the wall.
            Of best-of-n: for drawing what is measured.
        memory_gb: the most memory held, in gigabytes.
        drawn: responses sampled in training; of best-of-n, for each answer that is given.
        judged: texts the judge that trains has looked at in training.
        config: the ``key=value`` words that repeat it with ``python -m course_helpers.train``.
    """

    method: str
    setting: str
    seed: int
    prompts: int
    responses: int
    reward: float
    reward_low: float
    reward_high: float
    probability: float
    probability_low: float
    probability_high: float
    second_reward: float
    second_reward_low: float
    second_reward_high: float
    second_probability: float
    second_probability_low: float
    second_probability_high: float
    kl: float
    kl_low: float
    kl_high: float
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    distinct_2: float
    length: float
    seconds: float
    memory_gb: float
    drawn: int
    judged: int
    config: str

    @property
    def key(self) -> str:
        """``"method|setting"``, under which `load_samples` holds its texts."""
        return sample_key(self.method, self.setting)


COLUMNS = tuple(column.name for column in fields(Point))


def load_points(path: Path | str | None = None, least_prompts: int = LEAST_PROMPTS) -> list[Point]:
    """Read the points of a table, in the order of its rows.

    Args:
        path: a CSV file in UTF-8 with the columns of `Point`; the shipped table when None.
        least_prompts: the fewest queries a point may stand on.

    Returns:
        One point a row.

    Raises:
        ValueError: a column is missing or unknown, or a row cannot be right: a value that is no number or impossible, a
            mean outside its interval, too few queries, or the method, setting and seed of an earlier row.
    """
    path = asset("frontier") / "points.csv" if path is None else Path(path)
    lines: list[tuple[str, Point]] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_header(path, reader.fieldnames)
            for row in reader:
                where = f"{path.name}, line {reader.line_num}"
                lines.append((where, _point(where, row)))
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {reader.line_num}: {error}; write the table by save_points.") from None
    _check_points(lines, least_prompts)
    return [point for _, point in lines]


def save_points(points: Iterable[Point], path: Path | str, least_prompts: int = LEAST_PROMPTS) -> None:
    """Write points as a table that `load_points` reads back, number by number the same.

    Args:
        points: what to write, in this order.
        path: the file; what it held before is replaced.
        least_prompts: the fewest queries a point may stand on.

    Raises:
        ValueError: a point that `load_points` would refuse. Nothing is written then.
    """
    points = list(points)
    _check_points([(f"point {number}", point) for number, point in enumerate(points, start=1)], least_prompts)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def _check_header(path: Path, found: Sequence[str] | None) -> None:
    missing = [name for name in COLUMNS if name not in (found or ())]
    unknown = [name for name in found or () if name not in COLUMNS]
    if missing:
        raise ValueError(f"{path.name}, line 1: the column {missing[0]!r} is missing; add it, or rebuild the table.")
    if unknown or len(set(found)) < len(found):
        raise ValueError(
            f"{path.name}, line 1: the columns are {', '.join(found)}; expected each of these once, and no "
            f"others: {', '.join(COLUMNS)}."
        )


def _point(where: str, row: dict[str | None, Any]) -> Point:
    """The row's cells as texts, whole numbers and numbers."""
    filled = [name for name in COLUMNS if row[name] is not None]
    if None in row or len(filled) < len(COLUMNS):
        count = len(filled) + len(row.get(None, ()))
        raise ValueError(f"{where}: {count} cells, but {len(COLUMNS)} columns; quote texts that hold a comma.")
    return Point(**{name: _value(where, name, row[name]) for name in COLUMNS})


def _value(where: str, name: str, cell: str) -> str | int | float:
    if name in _TEXTS:
        return cell
    try:
        return int(cell) if name in _COUNTS else float(cell)
    except ValueError:
        kind = "a whole number" if name in _COUNTS else "a number, with a point for decimals"
        raise ValueError(f"{where}: {name} is {cell!r}; write {kind}.") from None


def _check_points(named: Sequence[tuple[str, Point]], least_prompts: int) -> None:
    """Check each point by itself, then that no two are of one run."""
    check_whole("least_prompts", least_prompts, at_least=1)
    if not named:
        raise ValueError("there are no points: a table needs at least one row below its header.")
    first: dict[tuple[str, str, int], str] = {}
    for where, point in named:
        _check_texts(where, point)
        _check_numbers(where, point)
        _check_intervals(where, point)
        if point.prompts < least_prompts:
            raise ValueError(
                f"{where}: measured on {point.prompts} prompts, too few to tell methods apart; "
                f"evaluate again on at least {least_prompts}."
            )
        earlier = first.setdefault((point.method, point.setting, point.seed), where)
        if earlier != where:
            raise ValueError(
                f"{where}: {point.method}, {point.setting}, seed {point.seed} stands in {earlier} already; "
                "remove one of the two, or correct its seed."
            )


def _check_texts(where: str, point: Point) -> None:
    require(point.method in METHODS, f"{where}: method", point.method, f"one of {', '.join(METHODS)}")
    for name in _TEXTS:
        text = getattr(point, name)
        fits = isinstance(text, str) and text.isprintable() and (text.strip() == text)
        require(fits and (text or name == "config"), f"{where}: {name}", text, "text on one line, without outer spaces")


def _check_numbers(where: str, point: Point) -> None:
    for name in COLUMNS:
        value, base = getattr(point, name), name.removesuffix("_low").removesuffix("_high")
        if name in _COUNTS:
            check_whole(f"{where}: {name}", value, at_least=0)
        elif name not in _TEXTS:
            require(is_finite(value), f"{where}: {name}", value, "a finite number: evaluate this run again")
        if base in _SHARES:
            require(0 <= value <= 1, f"{where}: {name}", value, "a share from 0 to 1, not per cent")
        if base in (*_COSTS, "kl"):
            require(value >= 0, f"{where}: {name}", value, "0 or more")


def _check_intervals(where: str, point: Point) -> None:
    for name in MEASURES:
        low, mean, high = _ends(point, name)
        if not low <= mean <= high:
            raise ValueError(
                f"{where}: {name} {mean} does not lie between {name}_low {low} and {name}_high {high}; "
                "exchange what has been swapped, or evaluate this run again."
            )


# ---------------------------------------------------------------------------------------------------------- over seeds


@dataclass(frozen=True)
class Combined:
    """One setting of one method over its seeds; the names are those of `Point`.

    Every measure is the mean over seeds, its ends those of `over_seeds`; so are the costs, except that `memory_gb` is
    the largest.

    Attributes:
        method: as in `Point`.
        setting: as in `Point`.
        seeds: the seeds there are.
        points: the single points, in that order.
    """

    method: str
    setting: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    reward: float
    reward_low: float
    reward_high: float
    probability: float
    probability_low: float
    probability_high: float
    second_reward: float
    second_reward_low: float
    second_reward_high: float
    second_probability: float
    second_probability_low: float
    second_probability_high: float
    kl: float
    kl_low: float
    kl_high: float
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    distinct_2: float
    length: float
    seconds: float
    memory_gb: float
    drawn: float
    judged: float
    config: str

    @property
    def key(self) -> str:
        """``"method|setting"``, under which `load_samples` holds its texts."""
        return sample_key(self.method, self.setting)


def over_seeds(points: Iterable[Point]) -> list[Combined]:
    """Put the seeds of each setting together: mean, and a 95 % interval for both kinds of luck.

    With the means m_1 … m_K of K seeds, of spread s (K − 1 in its denominator), and m̄ their mean, the lower end is

        m̄ − √(a² + b²),   a = t s/√K,   b = mean over seeds of (m_k − low_k),

    and the upper end likewise. a is the error of training: t is that of Student's distribution with K − 1 degrees of
    freedom, 4.30 for three seeds, so that few seeds make wide intervals. b is the error of the queries. All seeds are
    measured on the same ones, hence it is averaged and not divided by √K. What chance does in drawing the responses is
    in both, so the interval is a little too wide rather than too narrow. From a single seed s is unknown and a left
    out: the interval is then of the queries alone. No end leaves what is possible: 0 for a KL, 0 to 1 for shares.

    Args:
        points: of any methods, in any order.

    Returns:
        One of each method and setting, in the order in which they first occur.

    Source: Student 1908, "The Probable Error of a Mean", for t; the errors add as those of independent causes do.
    """
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.key, []).append(point)
    return [_combine(sorted(group, key=lambda point: point.seed)) for group in groups.values()]


def _combine(group: Sequence[Point]) -> Combined:
    measures: dict[str, float] = {}
    for name in MEASURES:
        low, mean, high = _interval([_ends(point, name) for point in group])
        least = 0.0 if name == "kl" or name in _SHARES else -math.inf
        most = 1.0 if name in _SHARES else math.inf
        measures |= {name: mean, f"{name}_low": max(low, least), f"{name}_high": min(high, most)}
    costs = ("distinct_2", "length", "seconds", "drawn", "judged")
    means = {name: _mean([getattr(point, name) for point in group]) for name in costs}
    first = group[0]
    return Combined(
        method=first.method,
        setting=first.setting,
        seeds=tuple(point.seed for point in group),
        points=tuple(group),
        memory_gb=max(point.memory_gb for point in group),
        config=first.config,
        **measures,
        **means,
    )


def _interval(ends: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Low, mean and high over seeds, from those of each seed."""
    count, mean = len(ends), _mean([m for _, m, _ in ends])
    a = 0.0
    if count > 1:
        spread = math.sqrt(sum((m - mean) ** 2 for _, m, _ in ends) / (count - 1))
        a = t_quantile(count - 1) * spread / math.sqrt(count)
    below, above = _mean([m - low for low, m, _ in ends]), _mean([high - m for _, m, high in ends])
    return mean - math.hypot(a, below), mean, mean + math.hypot(a, above)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _ends(point: Point | Combined, name: str) -> tuple[float, float, float]:
    return getattr(point, f"{name}_low"), getattr(point, name), getattr(point, f"{name}_high")


def t_quantile(degrees: int) -> float:
    """How many standard errors hold 95 % of Student's distribution: 12.71 for 1 degree of freedom, 1.96 for very many.

    Found by halving an interval, since P(|t| ≤ x) is a finite sum in the angle arctan(x/√ν).

    Args:
        degrees: ν, degrees of freedom, 1 or more.

    Returns:
        x with P(|t| ≤ x) = 0.95, to about 1e-12.

    Raises:
        ValueError: ν is no whole number above 0.

    Examples:
        >>> round(t_quantile(2), 3)  # three seeds
        4.303

    Source: Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    check_whole("degrees", degrees, at_least=1)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, degrees) < 0.95 else (low, middle)
    return math.sqrt(degrees) * math.tan(high)


def _t_within(angle: float, degrees: int) -> float:
    """P(|t| ≤ √ν tan(angle))."""
    sine, cosine, odd = math.sin(angle), math.cos(angle), degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


# --------------------------------------------------------------------------------------------------------------- pareto

Measured = TypeVar("Measured", Point, Combined)


def pareto(points: Iterable[Measured], measure: str = "reward") -> list[Measured]:
    """Keep the points that no other one beats: none with as much reward or more for as little KL or less.

    Args:
        points: `Point` or `Combined`.
        measure: what is to be large, one of `MEASURES` but the KL.

    Returns:
        Those that are left, from small KL to large, and so from small reward to large. Of two equal points both stay.

    Raises:
        ValueError: another measure.
    """
    allowed = [name for name in MEASURES if name != "kl"]
    require(measure in allowed, "measure", measure, f"one of {', '.join(allowed)}")
    points = list(points)
    best = [point for point in points if not any(_beats(other, point, measure) for other in points)]
    return sorted(best, key=lambda point: (point.kl, getattr(point, measure)))


def _beats(one: Measured, other: Measured, measure: str) -> bool:
    """As good in both, and better in one of them."""
    lead, saved = getattr(one, measure) - getattr(other, measure), other.kl - one.kl
    return lead >= 0 and saved >= 0 and (lead > 0 or saved > 0)


# -------------------------------------------------------------------------------------------------------------- samples


class Sample(NamedTuple):
    """A text of one of the points. It was written by a model: escape it before it goes into a page.

    Attributes:
        prompt: the query X.
        response: Y.
        reward: log-odds of POSITIVE by the judge that trains.
        second_reward: log-odds by the judge that only measures.
        kl: the KL along this response in nats.
    """

    prompt: str
    response: str
    reward: float
    second_reward: float
    kl: float


def sample_key(method: str, setting: str) -> str:
    """``"method|setting"``."""
    return f"{method}|{setting}"


def load_samples(path: Path | str | None = None) -> dict[str, tuple[Sample, ...]]:
    """Read the texts that belong to the points: of each the responses to the same prompts, in the same order.

    Args:
        path: a JSON file {"method|setting": [{"prompt": …, "response": …, "reward": …, "second_reward": …, "kl": …}]};
            the shipped one when None.

    Returns:
        The samples under ``"method|setting"``.

    Raises:
        ValueError: the file is no such JSON, a field is missing or of the wrong kind, or the prompts differ.
    """
    path = asset("frontier") / "samples.json" if path is None else Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error}); rebuild it, or restore the shipped file.") from None
    if not isinstance(found, dict) or not all(isinstance(rows, list) and rows for rows in found.values()):
        raise ValueError(f'{path.name} must be an object {{"method|setting": [samples]}}, each list with a sample.')
    samples = {
        key: tuple(_sample(f"{path.name}, {key}, sample {number}", row) for number, row in enumerate(rows, start=1))
        for key, rows in found.items()
    }
    _check_prompts(path, samples)
    return samples


def _sample(where: str, row: Any) -> Sample:
    if not isinstance(row, dict) or set(row) != set(Sample._fields):
        raise ValueError(f"{where}: expected the fields {', '.join(Sample._fields)}, each once, and no others.")
    for name in ("prompt", "response"):
        require(isinstance(row[name], str), f"{where}: {name}", row[name], "text")
    for name in ("reward", "second_reward", "kl"):
        require(is_finite(row[name]), f"{where}: {name}", row[name], "a finite number")
    return Sample(**row)


def _check_prompts(path: Path, samples: dict[str, tuple[Sample, ...]]) -> None:
    first: tuple[str, ...] | None = None
    for key, rows in samples.items():
        prompts = tuple(row.prompt for row in rows)
        first = prompts if first is None else first
        if prompts != first:
            raise ValueError(
                f"{path.name}, {key}: its prompts are not those of {next(iter(samples))}; "
                "draw the samples of all points from the same prompts, in one order."
            )
