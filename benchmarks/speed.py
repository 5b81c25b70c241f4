"""Import time, and the time of 64 rollouts of 24 tokens: what the README and the lessons count on.

python benchmarks/speed.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def import_seconds(runs: int = 7) -> list[float]:
    code = "import time; b = time.perf_counter(); import course_helpers; print(time.perf_counter() - b)"
    return [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(runs)]


def rollout_seconds(runs: int = 7) -> list[float]:
    import torch

    from course_helpers.models import load_policy
    from course_helpers.rollouts import sample_rollouts
    from course_helpers.sampling import SamplingSettings

    policy, tokenizer = load_policy("small", device="cpu")
    prompt = tokenizer("The acting in this film was").input_ids
    settings = SamplingSettings(temperature=0.9, top_k=500, top_p=0.95)  # every transform works; nothing ends early
    seconds = []
    for run in range(runs):
        began = time.perf_counter()
        rollouts = sample_rollouts(policy, prompt, 64, settings, torch.Generator().manual_seed(run), length_limit=24)
        seconds.append(time.perf_counter() - began)
        assert sum(len(r.token_ids) for r in rollouts) == 64 * 24
    return seconds


def main() -> None:
    for name, seconds in (("import course_helpers", import_seconds()), ("64 rollouts x 24 tokens", rollout_seconds())):
        print(f"{name}: median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s of {len(seconds)}")


if __name__ == "__main__":
    main()
