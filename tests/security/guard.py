"""Run by `test_offline` in a process of its own: a guard watches sockets while all is imported, loaded and trained.

Whatever would leave this machine is written down and refused: connections, datagrams, and questions to a name server.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import pkgutil
import socket
import sys
from pathlib import Path

attempts: list[str] = []


def is_here(address: object) -> bool:
    """Whether an address is this machine's own."""
    if not isinstance(address, tuple):
        return True  # a socket of the file system
    try:
        return ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback
    except ValueError:
        return address[0] in ("localhost", "")


def watch(event: str, arguments: tuple) -> None:
    """Python tells of every socket call here, whichever library makes it."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if address is not None and not is_here(address):
            attempts.append(f"{event} {address}")
            raise OSError(101, "nothing may leave this machine")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
        if host and not is_here((host if isinstance(host, str) else host.decode(),)) and host != socket.gethostname():
            attempts.append(f"{event} {host}")
            raise OSError(101, "nothing may leave this machine")


def import_all() -> int:
    """Import every module of the package; returns how many."""
    import course_helpers

    names = [each.name for each in pkgutil.walk_packages(course_helpers.__path__, "course_helpers.")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def train_all(folder: Path) -> list[str]:
    """The smallest run of each method, as `python -m course_helpers.train` makes it."""
    from course_helpers.runs.run import run
    from course_helpers.runs.settings import make

    little = {
        "openings": 4, "max_new_tokens": 3, "second_judge": None, "evaluation_prompts": 2, "evaluation_count": 1,
        "sample_every": 0, "lora_rank": 2, "batch_size": 4,
    }  # fmt: skip
    of_method = {
        "ppo": {"steps": 1, "mini_batch_size": 4},
        "dpo": {"pair_draws": 1},
        "grpo": {"steps": 1, "group": 4},
        "preferred-ft": {"pair_draws": 1, "epochs": 1},
    }
    done = []
    for method, changes in of_method.items():
        points = run(method, make(method, None, little | changes), folder / method, quiet=True)
        assert len(points) == 1
        done.append(method)
    return done


def main() -> None:
    """Write what was done, and what was attempted, as JSON into the file that is named."""
    sys.addaudithook(watch)
    said = {"modules": import_all()}
    from course_helpers.models import load_judge, load_policy, load_reference

    said["loaded"] = [type(load("small")).__name__ for load in (load_policy, load_reference, load_judge)]
    load_judge("second")
    said["trained"] = train_all(Path(sys.argv[1]))
    said["attempts"] = list(attempts)
    try:  # the guard itself
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    except OSError as error:
        said["guard"] = str(error)
    said["guarded"] = attempts[len(said["attempts"]) :]
    Path(sys.argv[2]).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
