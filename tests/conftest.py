"""What several test files share."""

import pytest
import torch


@pytest.fixture(scope="session")
def small():
    """The small policy and its tokenizer."""
    from course_helpers.models import load_policy

    return load_policy("small", device="cpu")


@pytest.fixture(scope="module")
def one_thread():
    """Timings mean the same on every machine, and sums are taken in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
