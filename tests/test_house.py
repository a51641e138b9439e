"""The order of the house: who may import whom, how large a module is, what may not occur."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("landscape", "msam", "analyses", "figures")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
ALLOWED = {
    "landscape": {"landscape"},
    "msam": {"landscape", "msam"},
    "analyses": {"landscape", "msam", "analyses"},
    # Result classes, and what they are written with; none of these imports torch.
    "figures": {"figures", "landscape.answers", "landscape.results", "landscape.files", "analyses.results"},
}
PACKAGES = {
    "landscape": {"torch", "numpy", "scipy", "pandas"},
    "msam": {"torch", "numpy", "safetensors", "sklearn", "PIL", "transformers"},
    "analyses": {"numpy", "scipy", "pandas", "jinja2"},
    "figures": {"matplotlib", "mpl_toolkits", "seaborn", "numpy", "rich"},  # mpl_toolkits is a part of matplotlib
}
ONLY_IN = {
    "pyhessian": "reference.py",
    "plotly": "interactive.py",
    "pyarrow": "parquet.py",
    "tokenizers": "tokens.py",
}
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL"}
ONLY_FOR_RECIPES = {"accelerate"}
MOST_LINES = 300
# One file by design; a command is its options and three calls. Spectrum is four commands: it measures, certifies,
# forecasts, and goes along a training; a slice goes along directions of many kinds; and whatever takes a RUN takes
# weights from elsewhere, with the options of their task.
MOST_LINES_OF_THE_COMMAND_LINE = 850


def imports(path: Path) -> set[str]:
    """Modules that a file imports, at any level of nesting, those for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path):
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        top = name.split(".")[0]
        if top in (*ROOMS, "cli"):
            assert top in ALLOWED[room] or name in ALLOWED[room], f"{path} imports {name}"
        elif top in ONLY_IN:
            assert path.name == ONLY_IN[top]
        elif top not in sys.stdlib_module_names:
            assert top in PACKAGES[room], f"{path} imports {name}"


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: path.name)
def test_a_module_stays_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_command_line_stays_small():
    assert len((ROOT / "cli.py").read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_THE_COMMAND_LINE


def test_the_device_is_named_only_where_it_is_chosen():
    named = {str(path.relative_to(ROOT)) for path in [*MODULES, ROOT / "cli.py"] if "cuda" in path.read_text().lower()}
    assert named <= {"cli.py", "msam/training.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_has_a_docstring_and_no_public_signature_takes_anything(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} says nothing of itself"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            nested = isinstance(node, ast.FunctionDef) and not any(node in owner.body for owner in _owners(tree))
            overloaded = isinstance(node, ast.FunctionDef) and any(
                "overload" in ast.dump(d) for d in node.decorator_list
            )
            if not (nested or overloaded):
                assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"
                if isinstance(node, ast.FunctionDef):
                    assert node.args.kwarg is None, f"{path}: {node.name} takes **{node.args.kwarg.arg}"


def _owners(tree: ast.Module) -> list[ast.Module | ast.ClassDef]:
    return [
        tree,
        *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")),
    ]


@pytest.mark.parametrize(
    "module", ["cli", "figures", "landscape.answers", "analyses.results", "analyses.protocol", "analyses.plan"]
)
def test_what_shows_results_does_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name in ("data", "hf", "interactive") for line in project["optional-dependencies"][name]]
    declared = {line.split(">=")[0] for line in [*project["dependencies"], *extras]}
    names = {IMPORTED_AS.get(name, name) for name in declared - ONLY_FOR_RECIPES}
    used = {name.split(".")[0] for path in [*MODULES, ROOT / "cli.py"] for name in imports(path)}
    outside = used - set(sys.stdlib_module_names) - {*ROOMS, "cli", "mpl_toolkits"}
    assert outside == names


def test_every_dependency_is_pinned():
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    assert {line.split(">=")[0].lower() for line in wanted} <= pins


def test_nothing_but_rooms_and_papers_lies_in_the_root():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    files = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "Makefile", "constraints.txt"}
    rooms = {*ROOMS, "tests", "docs", "benchmarks", "cli.py", "pyproject.toml"}
    assert {path.split("/")[0] for path in tracked if not path.startswith(".")} <= files | rooms
    assert not [path for path in tracked if path.startswith("figures/") and not path.endswith((".py", "py.typed"))]
