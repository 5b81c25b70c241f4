"""What a run is made of: a dataclass for each method, read from YAML and from ``key=value``.

A setting that no method knows, or a value of the wrong kind, is refused before anything is loaded.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from course_helpers.checks import check_beta, check_whole, is_finite, require
from course_helpers.yaml_text import read_yaml, read_yaml_file

COURSE = Path(__file__).parents[2]  # the folder that holds configs/


def setting(default: Any, meaning: str) -> Any:
    """A field with its explanation, which ``--help`` prints."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """What every run has. The `meaning` of each field is what ``python -m course_helpers.train METHOD --help`` prints.

    Raises:
        ValueError: a value that cannot work; the message names it and what is allowed.
    """

    policy: str = setting("small", "the policy to start from and its reference: small, full, a Hub id or a folder")
    judge: str = setting("small", "the judge that gives the reward: small, full, a Hub id or a folder")
    second_judge: str | None = setting("second", "a judge that only measures; null for none")
    label: str = setting("POSITIVE", "the judge's label that is wanted; the reward is its log-odds")
    prompts: str = setting("small", "openings of reviews: small, full, a Hub id or a folder")
    held_out: int = setting(80, "openings kept from training, for evaluation: the last ones")
    prompt_tokens: tuple[int, ...] = setting((2, 8), "shortest and longest cut of an opening, in tokens")
    openings: int | None = setting(None, "openings to train on at most; all when null")
    max_new_tokens: int = setting(16, "longest response, in tokens")
    seed: int = setting(0, "of everything random")
    processes: int | None = setting(None, "processes that must share the run; as many as were started when null")
    lora_rank: int | None = setting(16, "rank of the trained adapter; null trains every weight")
    learning_rate: float = setting(1e-3, "of AdamW (PPO: Adam)")
    batch_size: int = setting(32, "rows in a step, over all processes")
    save_every: int = setting(20, "steps between checkpoints; 0 keeps none")
    keep_steps: tuple[int, ...] = setting((), "steps after which the adapter is kept for good, to look back at")
    sample_every: int = setting(10, "steps between samples in samples.jsonl; 0 writes none")
    evaluation_prompts: int = setting(278, "prompts of unseen openings for the final evaluation")
    evaluation_count: int = setting(2, "responses to each of them")

    def __post_init__(self) -> None:
        """Check every value that has a range."""
        for name in ("held_out", "max_new_tokens", "batch_size", "evaluation_prompts", "evaluation_count"):
            check_whole(name, getattr(self, name), at_least=1)
        for name in ("seed", "save_every", "sample_every"):
            check_whole(name, getattr(self, name), at_least=0)
        for name in ("processes", "lora_rank", "openings"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), at_least=1)
        require(
            is_finite(self.learning_rate) and self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0"
        )
        low_to_high = len(self.prompt_tokens) == 2 and 1 <= self.prompt_tokens[0] <= self.prompt_tokens[1]
        require(low_to_high, "prompt_tokens", self.prompt_tokens, "two numbers of tokens, the smaller one first")
        require(all(step >= 0 for step in self.keep_steps), "keep_steps", self.keep_steps, "steps, at least 0")
        if self.keep_steps and self.lora_rank is None:
            raise ValueError("keep_steps keeps adapters, and lora_rank is null: set a rank, or leave keep_steps out.")


@dataclass(frozen=True)
class SFTSettings(Settings):
    """Supervised fine-tuning on texts (TRL's `SFTTrainer`)."""

    texts: str = setting("small", "openings or reviews to imitate: small, full, a Hub id or a folder")
    epochs: float = setting(1.0, "how often all texts are gone through")
    max_length: int = setting(64, "tokens of a text")


@dataclass(frozen=True)
class PairSettings(Settings):
    """Methods that learn from preference pairs."""

    pairs: str | None = setting(None, "a .jsonl or .parquet table of pairs; null draws them from the policy")
    pair_draws: int = setting(2, "how often each prompt is answered by a pair, where pairs are drawn")
    least_difference: float = setting(0.25, "rewards closer than this make no pair")
    epochs: float = setting(1.0, "how often all pairs are gone through")

    def __post_init__(self) -> None:
        """Check the values of its own, too."""
        super().__post_init__()
        check_whole("pair_draws", self.pair_draws, at_least=1)
        require(is_finite(self.epochs) and self.epochs > 0, "epochs", self.epochs, "a number above 0")
        enough = is_finite(self.least_difference) and self.least_difference >= 0
        require(enough, "least_difference", self.least_difference, "a finite number, at least 0")


@dataclass(frozen=True)
class RewardSettings(PairSettings):
    """A reward model from preferences (TRL's `RewardTrainer`): the policy with one number for a head."""

    learning_rate: float = setting(3e-4, "of AdamW")


@dataclass(frozen=True)
class DPOSettings(PairSettings):
    """Direct preference optimisation (TRL's `DPOTrainer`)."""

    beta: float = setting(0.3, "β, in reward per nat; high β keeps the policy near its reference")
    loss_type: str = setting("sigmoid", "sigmoid, ipo, hinge, or another loss of TRL's")

    def __post_init__(self) -> None:
        """Check β, too."""
        super().__post_init__()
        check_beta(self.beta)


@dataclass(frozen=True)
class PreferredFTSettings(PairSettings):
    """Supervised fine-tuning on the preferred responses alone (Rafailov et al. 2023, section 6)."""


@dataclass(frozen=True)
class OnlineSettings(Settings):
    """Methods that draw their own responses while they train."""

    steps: int = setting(60, "batches of responses")
    beta: float = setting(0.1, "β, in reward per nat; high β keeps the policy near its reference")

    def __post_init__(self) -> None:
        """Check the values of its own, too."""
        super().__post_init__()
        check_whole("steps", self.steps, at_least=1)
        check_beta(self.beta)


@dataclass(frozen=True)
class PPOSettings(OnlineSettings):
    """Proximal policy optimisation (`course_helpers.ppo`)."""

    batch_size: int = setting(64, "responses in a step, over all processes")
    mini_batch_size: int = setting(32, "responses for one update, over all processes")
    ppo_epochs: int = setting(2, "how often a batch is gone through")
    target_kl: float | None = setting(None, "KL a response to steer to by adapting β, in nats; null keeps β")
    cliprange: float = setting(0.2, "ε of the clipped ratio")
    vf_coef: float = setting(0.1, "weight of the value loss")
    max_grad_norm: float = setting(1.0, "longest gradient")
    bf16: bool = setting(False, "run the models under bfloat16 autocast")

    def __post_init__(self) -> None:
        """Check the target, too; `PPOConfig` checks the rest."""
        super().__post_init__()
        if self.target_kl is not None:
            above = is_finite(self.target_kl) and self.target_kl > 0
            require(above, "target_kl", self.target_kl, "a number of nats above 0, or null")


@dataclass(frozen=True)
class GRPOSettings(OnlineSettings):
    """Group relative policy optimisation (TRL's `GRPOTrainer`)."""

    batch_size: int = setting(64, "responses in a step, over all processes")
    group: int = setting(8, "responses to each prompt, compared with one another")
    scale_rewards: Literal["group", "batch", "none"] = setting(
        "none", "divide by the rewards' standard deviation in a group or batch; with none, β keeps its meaning"
    )

    def __post_init__(self) -> None:
        """Check the group, too."""
        super().__post_init__()
        check_whole("group", self.group, at_least=2)
        require(self.batch_size % self.group == 0, "batch_size", self.batch_size, f"a multiple of group, {self.group}")


@dataclass(frozen=True)
class BestOfNSettings(Settings):
    """Best-of-n: nothing is trained, n responses are drawn and the judge chooses (Stiennon et al. 2020)."""

    n: tuple[int, ...] = setting((1, 2, 4, 8, 16, 32, 64), "responses to choose from, one point for each number")

    def __post_init__(self) -> None:
        """Check n, too."""
        super().__post_init__()
        require(len(self.n) > 0 and all(n >= 1 for n in self.n), "n", self.n, "whole numbers, at least 1")


METHODS: dict[str, type[Settings]] = {
    "sft": SFTSettings,
    "reward": RewardSettings,
    "ppo": PPOSettings,
    "dpo": DPOSettings,
    "grpo": GRPOSettings,
    "best-of-n": BestOfNSettings,
    "preferred-ft": PreferredFTSettings,
}


def make(method: str, config: str | Path | None = None, changes: Mapping[str, Any] | Sequence[str] = ()) -> Settings:
    """Settings of a method: its defaults, changed by a file, changed by what is given.

    Args:
        method: a name in `METHODS`.
        config: a YAML file of settings, looked for from here and then from the course's own folder; if it names a
            method, it must be this one.
        changes: settings by name, or texts ``key=value`` with the value in YAML.

    Returns:
        The settings, checked.

    Raises:
        ValueError: an unknown method or setting, or a value of the wrong kind.
        FileNotFoundError: there is no such file.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; choose one of {', '.join(METHODS)}.")
    kind = METHODS[method]
    given = _read(Path(config), method) if config is not None else {}
    given |= dict(changes) if isinstance(changes, Mapping) else dict(map(_pair, changes))
    hints = get_type_hints(kind)
    for name in given:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}."
            raise ValueError(f"{method} has no setting {name!r}; {hint}")
    return kind(**{name: _as(name, value, hints[name]) for name, value in given.items()})


def _read(path: Path, method: str) -> dict[str, Any]:
    found = next((place for place in (path, COURSE / path) if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"there is no file {str(path)!r}; settings that come with the course are in configs/.")
    try:
        content = read_yaml_file(found)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}" if where else "some line"
        raise ValueError(f"{path} is no YAML at {line}: {getattr(error, 'problem', error)}.") from None
    if content is None:
        raise ValueError(f"{path} holds nothing: write settings into it, or restore it with `git checkout -- configs`.")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}; expected lines of the form 'name: value'.")
    named = content.pop("method", method)
    if named != method:
        raise ValueError(f"{path} is for {named!r}, not for {method!r}: choose the other method, or another file.")
    return content


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{text!r} is no setting; write it as key=value, without spaces around '='.")
    try:
        return name.strip(), read_yaml(value, name)
    except yaml.YAMLError:
        return name.strip(), value


def _as(name: str, value: Any, kind: Any) -> Any:
    """A value from YAML as the kind a setting has."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None or value == "":
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is Literal:
        value = {True: "group", False: "none"}.get(value, value) if isinstance(value, bool) else value
        require(value in get_args(kind), name, value, f"one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        listed = value if isinstance(value, list | tuple) else [value]
        return tuple(_as(name, each, get_args(kind)[0]) for each in listed)
    try:
        if kind is float and not isinstance(value, bool):
            return float(value)  # YAML takes 1e-3 for a text
        if kind is int and not isinstance(value, bool) and float(value) == int(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    words = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}[kind]
    require(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), name, value, words)
    return value


def as_dict(settings: Settings) -> dict[str, Any]:
    """Settings as YAML and JSON hold them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def differences(settings: Settings) -> list[str]:
    """What differs from the method's defaults, as ``key=value``: with these, the command line repeats the run."""
    plain = as_dict(type(settings)())
    told = []
    for name, value in as_dict(settings).items():
        if value != plain[name]:
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
            told.append(f"{name}={text}".replace(", ", ","))
    return told


def explain(method: str) -> str:
    """All settings of a method, one a line: name, default, meaning."""
    rows = [(f.name, f.default, f.metadata["meaning"]) for f in fields(METHODS[method])]
    return "\n".join(f"  {name:<20} {_shown(default):<12} {meaning}" for name, default, meaning in rows)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
