"""Run by several processes, one of which cannot read one checkpoint; see test_cli_spectrum_torchrun.py."""

import sys
from unittest import mock

import torch

from analyses.along_training import along_training
from analyses.protocol import Protocol
from landscape.processes import Together
from msam import Run

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    sharing, honest = Together(), Run.load_model

    def unreadable(run, task):
        if sharing.rank == 1 and run.checkpoint.stem == "epoch-0001":
            raise OSError("the disk is away")
        return honest(run, task)

    with mock.patch.object(Run, "load_model", unreadable):
        course = along_training(
            Run.open(sys.argv[1]), Protocol(), sharing=sharing, seconds=1e4 if sharing.is_first else 1e-9
        )
    found = course.answer.result
    kept = [found.epochs.tolist(), found.largest_eigenvalues.tolist(), list(course.unreadable.values())]
    torch.save(kept, f"{sys.argv[2]}/rank{sharing.rank}.pt")
    sharing.wait()
    torch.distributed.destroy_process_group()
