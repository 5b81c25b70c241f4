"""The order in which samples come: shuffled, complete batches only, and a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class ShuffledBatches:
    """A batch sampler that knows where it is.

    One order is drawn for each pass over the data, from the seed and the number of the pass alone. Several processes
    take turns in it, so that together they see what a single one with as large a batch would see.

    Args:
        count: samples there are.
        batch_size: samples in a batch of one process.
        seed: of the orders.
        rank: this process, from 0.
        processes: how many there are.

    Raises:
        ValueError: fewer samples than one batch of all processes.
    """

    def __init__(self, count: int, batch_size: int, seed: int = 0, rank: int = 0, processes: int = 1):
        """Start before the first batch of the first pass."""
        if count < batch_size * processes:
            raise ValueError(
                f"the data set has {count} samples, fewer than one batch of {batch_size}"
                + (f" in each of {processes} processes" if processes > 1 else "")
                + f": set batch_size to at most {count // processes}, or add samples."
            )
        self.count, self.batch_size, self.seed, self.rank, self.processes = count, batch_size, seed, rank, processes
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        """Batches in one pass."""
        return self.count // (self.batch_size * self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this pass that have not been drawn; when they are used up, the next pass begins."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        while self.position < len(self):
            begin = (self.position * self.processes + self.rank) * self.batch_size
            self.position += 1  # before the yield: a batch handed out counts as drawn
            yield order[begin : begin + self.batch_size].tolist()
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Pass and position."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
