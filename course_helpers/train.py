"""Train from a shell: one command for every method, on one machine or on many processes.

    python -m course_helpers.train METHOD [--config FILE] [--folder FOLDER] [key=value ...]
    python -m course_helpers.train dpo --config configs/small/dpo.yaml beta=0.1 seed=1
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m course_helpers.train ppo processes=2

A run leaves one folder behind (`course_helpers.runs.folder`). Started again with the same settings it goes on where it
was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says.

    Args:
        arguments: those of the process when None.

    Returns:
        0, or 2 for what cannot work: settings, a model that is not to be had, a full disk; the reason stands on
        standard error.
    """
    from course_helpers.runs import settings as known

    parser = _parser(known)
    given = parser.parse_intermixed_args(arguments)
    if given.explain:
        print(f"{given.method}: {(known.METHODS[given.method].__doc__ or '').strip()}\n{known.explain(given.method)}")
        return 0
    try:
        chosen = known.make(given.method, given.config, given.changes)
        return _run(given, chosen)
    except (ValueError, FileNotFoundError, RuntimeError, MemoryError) as error:
        plain = type(error) in (ValueError, FileNotFoundError, RuntimeError)
        if not plain and not type(error).__module__.startswith("course_helpers."):
            raise
        print(f"{given.method}: {error}", file=sys.stderr)
        return 2
    finally:
        if "course_helpers.runs.processes" in sys.modules:
            sys.modules["course_helpers.runs.processes"].barrier_and_leave()


def _parser(known: object) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m course_helpers.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=tuple(known.METHODS), help="what to train with")
    parser.add_argument("--config", help="a YAML file of settings, such as configs/small/dpo.yaml")
    parser.add_argument("--folder", help="where the run is kept; runs/METHOD-SETTING-seed-N by default")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    parser.add_argument("--explain", action="store_true", help="print the method's settings, and train nothing")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="settings that win over those of the file")
    return parser


def _run(given: argparse.Namespace, chosen: object) -> int:
    from course_helpers.memory import enough_memory_for
    from course_helpers.runs import processes
    from course_helpers.runs.run import default_folder, run

    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # between peft and transformers
    folder = given.folder or default_folder(given.method, chosen)
    remedy = (
        "The folder of the run is as its last checkpoint left it: with more memory the same command goes on from "
        "there. With less, choose a smaller batch_size, mini_batch_size or max_new_tokens and another --folder."
    )
    with enough_memory_for("this run", remedy):
        points = run(given.method, chosen, folder, given.quiet)
    if processes.is_main():
        for point in points:
            print(in_words(point))
        print(f"kept in {folder}")
    return 0


def in_words(point: dict) -> str:
    """A point on one line."""
    if "kl" not in point:
        return ", ".join(f"{name} {value}" for name, value in point.items() if name not in ("texts", "config"))
    second = f", second judge {point['second_reward']:+.2f}" if "second_reward" in point else ""
    return (
        f"{point['method']} {point['setting']}: reward {point['reward']:+.2f} "
        f"[{point['reward_low']:+.2f}, {point['reward_high']:+.2f}]{second}, P {point['probability']:.2f}, "
        f"KL {point['kl']:.2f} nats, win rate {point['win_rate']:.2f}, {point['seconds']:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
