"""What the README and the recipes say works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib

import papers
import pytest
from click.testing import CliRunner

import cli

ROOT = papers.ROOT
README = papers.text("README.md")
RECIPES = papers.recipes()


def blocks(language: str) -> list[str]:
    """The fenced code blocks of the README."""
    return papers.blocks("README.md", language)


def test_there_are_blocks_of_known_languages_only():
    assert blocks("python")
    assert blocks("console")
    assert len(re.findall(r"^```\w", README, flags=re.MULTILINE)) == len(blocks("python")) + len(blocks("console"))


def test_every_python_block_runs_one_after_the_other_without_a_warning(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "plane.png").stat().st_size > 10_000


def test_every_msam_command_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in (line for block in blocks("console") for line in block.splitlines() if line.startswith("msam")):
        result = CliRunner().invoke(cli.main, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}: {result.stderr}"
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "flatness.pdf").is_file()


def test_every_other_command_of_the_readme_is_a_target_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    others = [line for block in blocks("console") for line in block.splitlines() if not line.startswith("msam")]
    assert others
    for line in others:
        assert line.startswith("make ")
        assert re.search(rf"^{line.removeprefix('make ')}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_every_command_stands_in_the_readme(name):
    assert f"| `msam {name}` |" in README


def test_every_file_the_readme_points_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


@pytest.mark.parametrize("heading", RECIPES)
def test_every_recipe_runs_by_itself(heading, tmp_path):
    """Without a warning, where no other framework is there to give one."""
    code = RECIPES[heading]
    if papers.absent(code):
        pytest.skip(f"needs {', '.join(papers.absent(code))}")
    script = tmp_path / "recipe.py"
    script.write_text(code, encoding="utf-8")
    strict = [] if papers.extras_of(code) else ["-W", "error"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *strict, script], cwd=tmp_path, capture_output=True, text=True, env=one_thread
    )
    assert done.returncode == 0, done.stderr
    assert papers.extras_of(code) or done.stderr == ""


def test_the_recipes_have_no_code_that_is_not_run():
    assert len(RECIPES) == len(re.findall(r"^```\w", papers.text("docs/recipes.md"), flags=re.MULTILINE))


def test_every_extra_that_the_recipes_name_holds_what_they_import():
    extras = tomllib.loads(papers.text("pyproject.toml"))["project"]["optional-dependencies"]
    sections = papers.text("docs/recipes.md").split("\n## ")
    for section in sections:
        named = {name for extra in re.findall(r"msam-landscape\[(\w+)\]", section) for name in extras[extra]}
        code = "".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))
        assert papers.extras_of(code) <= {name.split(">=")[0] for name in named}, section.splitlines()[0]
