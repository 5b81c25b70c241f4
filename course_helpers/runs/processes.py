"""One run in several processes: as many as were asked for, or none at all."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from course_helpers.models import best_device


def state() -> PartialState:
    """accelerate's view of the processes, on the CPU where that is the device."""
    return PartialState(cpu=best_device().type == "cpu")


def require_processes(wanted: int | None) -> int:
    """Number of processes that share this run.

    A launcher that starts fewer than it was told does not say so (``accelerate launch --cpu --num_processes 2`` starts
    one); each batch would then be smaller than the settings say, and the run another run.

    Args:
        wanted: what was asked for; None takes what there is.

    Raises:
        RuntimeError: another number was started.
    """
    found = state().num_processes
    if wanted is not None and found != wanted:
        raise RuntimeError(
            f"processes={wanted} was asked for, but {found} {'is' if found == 1 else 'are'} running. Start them with "
            f"torchrun --nproc_per_node {wanted} -m course_helpers.train ... (on a CPU with ACCELERATE_USE_CPU=true "
            "before it; accelerate launch --cpu starts a single one), or leave processes out."
        )
    return found


def share(total: int, name: str, processes: int) -> int:
    """One process's part of a number that is meant for all.

    Raises:
        ValueError: the number cannot be shared evenly.
    """
    if total % processes:
        near = max(total // processes, 1) * processes
        raise ValueError(
            f"{processes} processes cannot share {name}={total} evenly: choose a multiple, such as {near}."
        )
    return total // processes


def is_main() -> bool:
    """Whether this process writes what all found."""
    return state().is_main_process


def from_main(value: Any) -> Any:
    """What the main process has, in every process."""
    if state().num_processes == 1:
        return value
    carried = [value]
    broadcast_object_list(carried)
    return carried[0]


def wait() -> None:
    """Go on when all have come here."""
    state().wait_for_everyone()


def barrier_and_leave() -> None:
    """Close the connection between processes, so that none hangs on the others' end."""
    if state().num_processes > 1:
        state().destroy_process_group()
