"""The public API: its page, docstrings that say all and render, examples that run, and names that lessons rely on.

The rules for a docstring:

- its first line is a sentence of its own;
- `Args:` names the parameters, all of them, in their order, stars included. A docstring of one line may do without:
  that of a method, which its class explains, and that of a function with at most two parameters;
- one that is longer than a line has `Returns:` if something comes back (properties say it in their first line);
- `Attributes:` names the fields of a dataclass or named tuple, unless each field carries its own `meaning`;
- sections stand in one order, with an empty line before each.
"""

import ast
import doctest
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import make_api

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "course_helpers"
FILES = sorted(PACKAGE.rglob("*.py"))
PUBLIC = [module for modules in make_api.GROUPS.values() for module in modules]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Examples", "Source")
LIKE_SECTIONS = re.compile(r"(Arg|Argument|Parameter|Param|Return|Yield|Raise|Exception|Throw|Example|Attribute)s?:?$")
FIELDS_ELSEWHERE = {"Combined": "Point"}  # "the names are those of `Point`"


def module_of(path):
    names = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def documented(path):
    """Every public module, class, function and method of a file, as (name, node, docstring)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [(module_of(path), tree, ast.get_docstring(tree) or "")]

    def look(body, before):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.append((f"{before}.{node.name}", node, ast.get_docstring(node) or ""))
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{before}.{node.name}")

    look(tree.body, module_of(path))
    return found


EVERYTHING = [each for path in FILES for each in documented(path)]
ON_THE_PAGE = {f"course_helpers.{module}.{entry.name}" for module in PUBLIC for entry in make_api.public_names(module)}


def parameters(function):
    """Names as `Args:` is to write them, without self and cls."""
    given = function.args
    names = [each.arg for each in given.posonlyargs + given.args]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    names += [f"*{given.vararg.arg}"] if given.vararg else []
    names += [each.arg for each in given.kwonlyargs]
    return names + ([f"**{given.kwarg.arg}"] if given.kwarg else [])


def constructor(node):
    return next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)


def is_record(node):
    """Whether a class is a dataclass or a named tuple, whose fields are its parameters."""
    marks = [ast.unparse(mark) for mark in (*node.decorator_list, *node.bases)]
    return any(mark.startswith("dataclass") or mark == "NamedTuple" for mark in marks)


def fields_of(node):
    return [
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and not part.target.id.startswith("_")
        if not (isinstance(part.value, ast.Call) and ast.unparse(part.value.func) == "setting")
    ]


def section(text, name):
    """The lines of a section, or None."""
    found = re.search(rf"^{name}:\n((?:(?: .*)?\n?)*)", text, re.MULTILINE)
    return found[1] if found else None


def is_long(text):
    """Whether a docstring says more than a line, examples aside."""
    return "\n" in re.sub(r"\n\nExamples:\n(    .*\n?|\n)*", "", text)


def explained(block):
    """The names that stand before the colons of a section, in their order."""
    entries = re.findall(r"^    (\S[^:]*?):(?:\s|$)", block or "", re.MULTILINE)
    return [name.strip() for entry in entries for name in entry.split(",")]


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_is_what_the_tool_makes_of_the_source():
    assert make_api.PAGE.read_text(encoding="utf-8") == make_api.page(), "docs/api.md is out of date: run `make texts`"


def test_the_tool_tells_whether_the_page_is_up_to_date_and_needs_no_library():
    # -I and -S: without the installed packages, so that nothing of course_helpers can be imported either
    tool = [sys.executable, "-I", "-S", ROOT / "tools" / "make_api.py", "--check"]
    done = subprocess.run(tool, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "api.md: up to date"), done.stderr


def test_every_link_of_the_page_leads_to_the_definition():
    page = make_api.PAGE.read_text(encoding="utf-8")
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./(\S+?)(?:#L(\d+))?\)", page)
    assert len(links) > 400
    wrong = []
    for name, file, line in links:
        text = (ROOT / file).read_text(encoding="utf-8").splitlines()
        if line and not re.search(rf"\b{name.rpartition('.')[2]}\b", text[int(line) - 1]):
            wrong.append((name, file, line))
    assert wrong == []


def test_every_module_stands_on_the_page_once():
    page = make_api.PAGE.read_text(encoding="utf-8")
    packages = {module_of(path) for path in FILES if path.name == "__init__.py"} - {"course_helpers.assets"}
    modules = [module_of(path) for path in FILES if module_of(path) not in packages]
    assert [name for name in modules if page.count(f"[`{name}`](") != 1] == []


def test_a_table_cell_survives_every_sign_that_markdown_takes_for_its_own():
    assert (
        make_api.plain("ln π(Y|X) of π_ref, *not* `a|b`, ``c_d``") == r"ln π(Y\|X) of π\_ref, \*not\* `a\|b`, ``c_d``"
    )


# -------------------------------------------------------------------------------------------- what a docstring must say


def test_every_public_name_has_a_docstring_that_begins_with_a_sentence():
    missing = [name for name, _node, text in EVERYTHING if not text]
    unfinished = [name for name, _node, text in EVERYTHING if text and text.split("\n")[0][-1] not in ".:?"]
    assert (missing, unfinished) == ([], [])


def test_args_name_exactly_the_parameters():
    wrong = []
    for name, node, text in EVERYTHING:
        function = constructor(node) if isinstance(node, ast.ClassDef) else node
        if not isinstance(function, ast.FunctionDef) or section(text, "Args") is None:
            continue
        if explained(section(text, "Args")) != parameters(function):
            wrong.append((name, parameters(function), explained(section(text, "Args"))))
    assert wrong == []


def test_public_functions_explain_their_parameters():
    silent = []
    for name, node, text in EVERYTHING:
        if isinstance(node, ast.FunctionDef) and name in ON_THE_PAGE and section(text, "Args") is None:
            is_method = name.removeprefix("course_helpers.").split(".")[-2][0].isupper()
            count, long = len(parameters(node)), is_long(text)
            if (long and count > 1) or (not is_method and count > 2):
                silent.append((name, parameters(node)))
    assert silent == []


def test_long_docstrings_of_public_functions_say_what_comes_back():
    silent = []
    for name, node, text in EVERYTHING:
        if not isinstance(node, ast.FunctionDef) or name not in ON_THE_PAGE or not is_long(text):
            continue
        marks = [ast.unparse(mark) for mark in node.decorator_list]
        gives = node.returns is not None and ast.unparse(node.returns) != "None"
        if gives and not any("property" in mark or mark == "contextmanager" for mark in marks):
            silent += [] if section(text, "Returns") else [name]
    assert silent == []


def test_public_records_explain_their_fields():
    fields = {
        name.rpartition(".")[2]: fields_of(node) for name, node, _ in EVERYTHING if isinstance(node, ast.ClassDef)
    }
    wrong = []
    for name, node, text in EVERYTHING:
        if isinstance(node, ast.ClassDef) and name in ON_THE_PAGE and is_record(node):
            elsewhere = fields.get(FIELDS_ELSEWHERE.get(node.name), [])
            own = explained(section(text, "Attributes"))
            borrowed = {
                part for part in fields_of(node) if any(part == f or part.startswith(f"{f}_") for f in elsewhere)
            }
            if [part for part in fields_of(node) if part not in borrowed or part in own] != own:
                wrong.append((name, fields_of(node), own))
    assert wrong == []


# ------------------------------------------------------------------------------------------------------ that it renders


def trouble(text):
    """What a reader of napoleon's sections would stumble over."""
    lines = text.split("\n")
    heads = [(k, line.partition(":")[0]) for k, line in enumerate(lines) if re.match(rf"({'|'.join(SECTIONS)}):", line)]
    order = [SECTIONS.index(head) for _k, head in heads]
    if order != sorted(set(order)):
        return f"sections in the order {[head for _k, head in heads]}"
    for k, head in heads:
        if k and lines[k - 1]:
            return f"no empty line before {head}"
        if head != "Source" and (
            lines[k] != f"{head}:" or k + 1 == len(lines) or not re.match(r"    \S", lines[k + 1])
        ):
            return f"nothing, or nothing indented by four, under {head}"
    if misspelt := [line for line in lines if LIKE_SECTIONS.match(line) and line.rstrip(":") not in SECTIONS]:
        return f"no section: {misspelt[0]}"
    prose = re.sub(r"^\s*(>>>|\.\.\.) .*$", "", text, flags=re.MULTILINE).replace("``", "")
    if any(part.count("`") % 2 for part in prose.split("\n\n")):
        return "a backquote without its other half"
    return ""


def test_sections_are_well_formed():
    assert [(name, said) for name, _node, text in EVERYTHING if (said := trouble(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "Sum.\n\nArgs:\n    x: one.\nReturns:\n    Both.",
        "Sum.\n\nReturns:\n    Both.\n\nArgs:\n    x: one.",
        "Sum.\n\nArgs:\n  x: one.",
        "Sum.\n\nArguments:\n    x: one.",
        "Sum of `x and y.",
    ],
)
def test_what_does_not_render_is_found(text):
    assert trouble(text)


def test_docutils_reads_every_docstring_without_a_warning():
    napoleon = pytest.importorskip("sphinx.ext.napoleon", reason="sphinx comes with the extra `docs`")
    from docutils.frontend import get_default_settings
    from docutils.parsers.rst import Parser
    from docutils.utils import new_document

    options, parser, settings = napoleon.Config(napoleon_use_ivar=True), Parser(), get_default_settings(Parser)
    said = settings.warning_stream = io.StringIO()
    settings.report_level, settings.file_insertion_enabled = 2, False
    for name, _node, text in EVERYTHING:
        parser.parse(str(napoleon.GoogleDocstring(text, options)), new_document(name, settings))
    assert said.getvalue() == ""


# ------------------------------------------------------------------------------------------------- names and examples


@pytest.mark.parametrize("name", [module_of(path) for path in FILES if "__all__" in path.read_text(encoding="utf-8")])
def test_all_names_what_is_there(name):
    module = importlib.import_module(name)
    assert [each for each in module.__all__ if not hasattr(module, each)] == []
    assert len(set(module.__all__)) == len(module.__all__)


EXAMPLES = [module_of(path) for path in FILES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_are_true(name, tmp_path, monkeypatch):
    """Each example in a folder of its own, as it may write files there."""
    tests = [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]
    assert tests, "examples that the finder does not see"
    said = []
    for number, test in enumerate(tests):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


TAUGHT = (
    "sampling", "toy", "ppo.losses", "dpo.losses", "frontier.best_of_n", "checks", "exercises.registry",
)  # fmt: skip


@pytest.mark.parametrize("module", TAUGHT)
def test_every_function_of_the_arithmetic_has_an_example(module):
    texts = {name: text for name, node, text in EVERYTHING if isinstance(node, ast.FunctionDef)}
    own = [name for name in texts if name.rpartition(".")[0] == f"course_helpers.{module}"]
    assert own
    assert [name for name in own if "Examples:\n    >>> " not in texts[name]] == []


def imported(source):
    """What a lesson takes from course_helpers: (module, name), also through the modules it imports."""
    code = "\n".join(line for line in source.split("\n") if not line.lstrip().startswith(("%", "!")))
    tree, names, modules = ast.parse(code), [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "course_helpers":
            for each in node.names:
                names.append((node.module, each.name))
                modules[each.asname or each.name] = f"{node.module}.{each.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (owner := dotted(node.value, modules)) and is_module(owner):
            names.append((owner, node.attr))
    return names


def dotted(node, modules):
    """The full name of `ppo.stats`, if `ppo` is one of the modules."""
    if isinstance(node, ast.Name):
        return modules.get(node.id)
    before = dotted(node.value, modules) if isinstance(node, ast.Attribute) else None
    return f"{before}.{node.attr}" if before else None


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_public(module, name):
    """Whether a name is on the page, under the module it is imported from or the one that defines it."""
    full = f"{module}.{name}"
    if is_module(full) or full in ON_THE_PAGE:
        return True
    tree = ast.parse(make_api.source_of(module.partition(".")[2]).read_text(encoding="utf-8"))
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    homes = [node.module for node in imports if name in [alias.asname or alias.name for alias in node.names]]
    return any(home.startswith("course_helpers") and is_public(home, name) for home in homes)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_every_name_that_a_lesson_uses_is_on_the_page(lesson):
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    source = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = imported(source)
    assert names
    assert sorted({f"{module}.{name}" for module, name in names if not is_public(module, name)}) == []


def test_what_readme_imports_is_on_the_page():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names = [name for block in blocks for name in imported(inspect.cleandoc(block))]
    assert names
    assert [(module, name) for module, name in names if not is_public(module, name)] == []
