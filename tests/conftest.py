"""What several test files share."""

import gc
import os
import sys

import pytest
import torch

from course_helpers import translation

os.environ["COURSE_LANGUAGE"] = "en"  # whatever the machine speaks; kernels that a test starts inherit it


LONG = ("test_train_processes.py", "test_load.py", "test_dpo_training.py", "test_use_lessons.py", "test_site.py")


def pytest_collection_modifyitems(items):
    """What takes minutes goes first, behind the lessons: begun last, it would keep one of two processes waiting."""
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", item.path.name not in LONG))


def pytest_collection_finish():
    """Nine thousand tests and what they import stay to the end: no collection of garbage need look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_language():
    """A test may choose a language; the next one finds the one before."""
    before = translation.language()
    yield
    if translation.language() != before:
        translation.language(before)


@pytest.fixture(scope="module", autouse=True)
def no_panels_left():
    """ipywidgets keeps every panel until it is closed, and each change of the language would draw all of them again."""
    yield
    if "ipywidgets" in sys.modules:
        sys.modules["ipywidgets"].Widget.close_all()


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
