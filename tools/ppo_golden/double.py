"""TRL 0.11.4 in float64: its own source, with the casts to float32 made casts to float64 while it is imported.

In float32 two correct implementations differ by 1e-4 after three steps; in float64 by 1e-11, and a mistake shows.
"""

from __future__ import annotations

import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType

CASTS = {
    r"\.float\(\)": ".double()",
    r"torch\.float32\b": "torch.float64",
    r"dtype=torch\.float\b": "dtype=torch.float64",
}
# How many casts each module has: another number means another version, whose numbers these would not be.
EXPECTED = {"trl.trainer.ppo_trainer": 8, "trl.models.modeling_value_head": 4, "trl.trainer.utils": 9}


class _DoubleLoader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        source, changed = self.get_source(fullname), 0
        for pattern, replacement in CASTS.items():
            source, count = re.subn(pattern, replacement, source)
            changed += count
        if changed != EXPECTED[fullname]:
            raise ImportError(f"{fullname} has {changed} casts to float32, TRL 0.11.4 has {EXPECTED[fullname]}")
        return compile(source, self.path, "exec")


class _DoubleFinder(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname not in EXPECTED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        spec.loader = _DoubleLoader(fullname, spec.origin)
        return spec


def install() -> None:
    """From now on the modules above are imported in float64."""
    assert not any(name in sys.modules for name in EXPECTED), "call this before trl is imported"
    sys.meta_path.insert(0, _DoubleFinder())
