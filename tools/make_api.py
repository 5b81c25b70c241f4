"""Writes docs/api.md, the public names of course_helpers on one page, read from the source without importing it.

python tools/make_api.py            brings it up to date
python tools/make_api.py --check    writes nothing, and exits with 1 if it is not up to date

A module that learners are to use belongs to `GROUPS`; the others are only named at the end of the page. The sentence
beside a name is the first line of its docstring; a constant is listed if it has one.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "course_helpers"
PAGE = ROOT / "docs" / "api.md"

# What they teach, in the order in which a learner meets them. Names are relative to the package.
GROUPS = {
    "Finding your way": ("translation", "models", "prompts", "tokens", "plots", "glossary"),
    "Practice and progress": ("exercises.registry", "exercises.check", "quizzes", "progress", "progress_file"),
    "From logits to responses": ("sampling", "rollouts", "beams"),
    "Rewards, KL and how sure they are": ("evaluate",),
    "Policies small enough to be exact": ("toy",),
    "PPO": (
        "ppo.losses", "ppo.config", "ppo.value_head", "ppo.trainer", "ppo.rollout", "ppo.controllers", "ppo.stats",
        "live",
    ),
    "Preferences and DPO": ("choices", "preferences", "dpo.losses", "dpo.training", "dpo.curves", "dpo.saving"),
    "The reward-KL frontier": ("frontier.finite", "frontier.best_of_n", "frontier.table", "time_travel"),
    "Fine-tuning the InstructLab way": (
        "taxonomy.check", "taxonomy.read", "teacher.lexicon", "teacher.protocol", "teacher.rules", "teacher.endpoint",
        "teacher.pipeline", "teacher.examples", "instruct",
    ),
    "Whole trainings, on one machine and on many": (
        "runs.settings", "runs.data", "runs.run", "runs.folder", "runs.journey", "train", "plan",
    ),
    "Widgets": (
        "widgets.sampling_explorer", "widgets.write_it_yourself", "widgets.microscope", "widgets.policy_steps",
        "widgets.ratio_clip", "widgets.reward_sliders", "widgets.beta_explorer", "widgets.bradley_terry",
        "widgets.preference_losses", "widgets.preference_labeller", "widgets.frontier_plot",
        "widgets.time_travel_panel", "widgets.chat_panel", "widgets.quiz", "widgets.glossary_panel",
    ),
    "What all of this stands on": ("checks", "assets", "memory"),
}  # fmt: skip
# Of these modules only the names that are given here are public; the rest is their own machinery.
ONLY = {
    "translation": {"language"},
    "models": {"LoadError", "best_device", "load_policy", "load_reference", "load_judge", "score", "log_odds"},
    "glossary": {"glossary", "entries", "find", "fold", "related", "Entry", "Wording", "Answer", "Listing"},
    "exercises.check": {"Exercise", "Result", "Mistake"},
    "quizzes": {"load_quiz", "quiz_names", "read_quiz", "grade", "numbers_in", "Feedback", "Verdict", "Remark"},
    "ppo.value_head": {"ValueHead", "AutoModelForCausalLMWithValueHead", "create_reference_model"},
    "ppo.config": {"PPOConfig"},
    "ppo.rollout": {"Batch", "generate_responses", "draw_responses", "response_outputs", "until_end"},
    "ppo.stats": {"STATS", "scalars"},
}
INTRODUCTION = """# The package, name by name

Every public name of `course_helpers`: {names} in {modules} modules, in the order in which the lessons meet them. A name
leads to its source, whose docstring says what goes in, what comes out, what can go wrong and where it is from; many
show a small example with a known answer. Import from the module that the heading names:

```python
from {package}.sampling import apply_temperature
```

`course_helpers.language`, the classic names of `course_helpers.ppo`, the widgets of `course_helpers.widgets`,
`course_helpers.exercises.exercise` and the names of `course_helpers.taxonomy` can also be imported from there.

<!-- Made by tools/make_api.py from the docstrings: edit those, then run `make texts`. -->
"""


@dataclass(frozen=True)
class Name:
    """A public name.

    Attributes:
        name: of a function, class or constant; of a method with its class before it.
        line: where it is defined, counted from 1.
        sentence: the first line of its docstring.
    """

    name: str
    line: int
    sentence: str


def source_of(module: str, root: Path = ROOT) -> Path:
    """The file of a module, which may be a package."""
    path = root.joinpath(PACKAGE, *module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def names_in(tree: ast.Module, only: set[str] | None = None, methods: bool = True) -> list[Name]:
    """Public functions, classes, their methods, and the constants that have a docstring, in the order of the file."""
    found = []
    for node, after in pairwise([*tree.body, None]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names, words = [node.name], ast.get_docstring(node)
        else:
            words = string_of(after)
            names = constants_of(node) if words else []
        public = [name for name in names if not name.startswith("_") and (not only or name in only)]
        found += [Name(name, node.lineno, first_line(words)) for name in public]
        if public and methods and isinstance(node, ast.ClassDef):
            found += methods_of(node)
    return found


def methods_of(node: ast.ClassDef) -> list[Name]:
    """Public methods and properties of a class; what TRL's callbacks are called (`on_...`) is theirs to call."""
    return [
        Name(f"{node.name}.{part.name}", part.lineno, first_line(ast.get_docstring(part)))
        for part in node.body
        if isinstance(part, ast.FunctionDef) and not part.name.startswith(("_", "on_"))
    ]


def constants_of(node: ast.stmt) -> list[str]:
    """The names that a statement gives to values."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def string_of(node: ast.stmt | None) -> str | None:
    """The text of a statement that is nothing but a text."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return node.value.value if is_text else None


def public_names(module: str, root: Path = ROOT) -> list[Name]:
    """What the page lists of a module. Of a widget that is the class alone: the rest answers a mouse or a key."""
    tree = tree_of(source_of(module, root))
    if not module.startswith("widgets."):
        return names_in(tree, ONLY.get(module))
    offered = tree_of(source_of("widgets", root))
    shown = {a.name for node in offered.body if isinstance(node, ast.ImportFrom) for a in node.names}
    return names_in(tree, shown, methods=False)


def modules_inside(root: Path = ROOT) -> list[str]:
    """Modules that only other modules use: all that are in no group, packages and their `__init__` left out."""
    folder = root / PACKAGE
    there = {".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")}
    grouped = {module for modules in GROUPS.values() for module in modules}
    if gone := sorted(grouped - {name.removesuffix(".__init__") for name in there}):
        raise SystemExit(f"{', '.join(gone)}: in GROUPS of tools/make_api.py, and no longer in the package.")
    return sorted(name for name in there - grouped if not name.endswith("__init__"))


# ------------------------------------------------------------------------------------------------------------ the page


def plain(text: str) -> str:
    """Text with the signs escaped that Markdown would take for its own; in code only the bar that ends a cell."""
    parts = re.split(r"(``.+?``|`[^`]*`)", text)
    signs = [r"([|])" if part.startswith("`") else r"([*_\[\]<|\\])" for part in parts]
    return "".join(re.sub(sign, r"\\\1", part) for sign, part in zip(signs, parts, strict=True))


def link(module: str, words: str, line: int | None = None) -> str:
    address = Path("..") / source_of(module).relative_to(ROOT)
    return f"[`{words}`]({address.as_posix()}{f'#L{line}' if line else ''})"


def table(rows: list[tuple[str, str]], head: str) -> str:
    lines = [f"| {name} | {plain(said)} |" for name, said in rows]
    return "\n".join([f"| {head} | what it is |", "| --- | --- |", *lines])


def about(module: str) -> str:
    """The first line of a module's docstring."""
    return first_line(ast.get_docstring(tree_of(source_of(module))))


def section(module: str) -> str:
    """One module: its name, what it is about, its table."""
    rows = [(link(module, entry.name, entry.line), entry.sentence) for entry in public_names(module)]
    return f"### {link(module, f'{PACKAGE}.{module}')}\n\n{plain(about(module))}\n\n{table(rows, 'name')}"


def page() -> str:
    """The whole page."""
    modules = [module for group in GROUPS.values() for module in group]
    names = sum(len(public_names(module)) for module in modules)
    parts = [INTRODUCTION.format(names=names, modules=len(modules), package=PACKAGE).strip()]
    for title, group in GROUPS.items():
        parts += [f"## {title}", *map(section, group)]
    inside = [(link(module, f"{PACKAGE}.{module}"), about(module)) for module in modules_inside()]
    parts += ["## Inside", "Modules that these are made of, for whoever reads on.", table(inside, "module")]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    check, text = parser.parse_args().check, page()
    stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
    if stale and not check:
        PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.name}: {'out of date' if check and stale else 'up to date'}")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
