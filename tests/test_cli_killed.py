"""``msam slice``, killed where nothing can be tidied up, and called again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from commands import msam

from landscape.kept import FinishedPoints

ROOT = Path(__file__).resolve().parent.parent
POINTS = 5 * 5
WATCHED = """
    import os, signal, sys
    from pathlib import Path
    import cli
    from landscape import kept, walks

    log, last, kept.EVERY = Path(sys.argv.pop(1)), int(sys.argv.pop(1)), float(sys.argv.pop(1))
    asked, begin = [], walks.Walk.__init__

    def watched(walk, at, *arguments, **settings):
        def one(index):
            if len(asked) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            asked.append(index)
            log.write_text(" ".join(map(str, asked)))
            return at(index)

        begin(walk, one, *arguments, **settings)

    walks.Walk.__init__ = watched
    cli.main()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    line = "train --set hidden=8 --set train_examples=60 --batch-size 25 --epochs 1"
    assert msam(f"{line} --out {run}").exit_code == 0
    return run


class Slices:
    """A run of its own, whose plane is asked for in processes that say which points they evaluate."""

    def __init__(self, trained: Path, folder: Path) -> None:
        shutil.copytree(trained, folder / "run", ignore=shutil.ignore_patterns("results"))
        self.folder, self.words = folder, ["slice", folder / "run", "--dims", 2, "--plane-points", 5]

    def asked(self, *, last: int = POINTS, every: float = 0.0) -> tuple[int, list[int]]:
        """The status of one call that is killed before it evaluates more than so many points, and these."""
        log = self.folder / "asked"
        log.write_text("")
        command = [sys.executable, "-c", textwrap.dedent(WATCHED), log, last, every, *self.words]
        ended = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, check=False, timeout=120)
        return ended.returncode, [int(index) for index in log.read_text().split()]

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("run/results/*.npz"))


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory) -> Slices:
    """A plane that nothing has interrupted."""
    slices = Slices(trained, tmp_path_factory.mktemp("whole"))
    assert slices.asked() == (0, list(range(POINTS)))
    return slices


def test_a_grid_that_is_killed_at_60_percent_goes_on_to_the_same_file_bit_for_bit(whole, trained, tmp_path):
    killed = Slices(trained, tmp_path)
    assert killed.asked(last=15) == (-signal.SIGKILL, list(range(15)))
    (left,) = killed.files()
    assert left.name.startswith("unfinished-")
    assert FinishedPoints.load(left).finished.tolist() == [True] * 15 + [False] * 10
    assert killed.asked() == (0, list(range(15, POINTS)))
    (ours,), (theirs,) = killed.files(), whole.files()
    assert ours.name == theirs.name
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_was_not_written_when_a_grid_was_killed_is_evaluated_again(whole, trained, tmp_path):
    killed = Slices(trained, tmp_path)
    assert killed.asked(last=15, every=1e9)[0] == -signal.SIGKILL
    assert killed.files() == []
    assert killed.asked() == (0, list(range(POINTS)))
    assert [file.read_bytes() for file in killed.files()] == [file.read_bytes() for file in whole.files()]
