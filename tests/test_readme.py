"""What the README says works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced code blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


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
