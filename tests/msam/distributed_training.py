"""Run by several processes: trains a run with mSAM, and one of them may be killed; see test_distributed.py."""

import json
import os
import signal
import sys

import torch

import msam.optimizer
from msam import Run, TrainConfig, train
from msam.training import launched


def killed_at(number, step):
    """The step, but the process is killed instead of taking it for the ``number``-th time."""
    calls = []

    def call(*arguments):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    return call


if __name__ == "__main__":
    path, rank, number = sys.argv[1], os.environ["RANK"], int(sys.argv[3])
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, to the others when one has died: here they are to speak
    if rank == sys.argv[2]:
        msam.optimizer.mSAM.step = killed_at(number, msam.optimizer.mSAM.step)
    with launched("cpu") as (processes, device):
        run = Run.open(path)
        config = TrainConfig.from_dict(json.loads(sys.argv[4]))
        try:
            train(config.load_task(), config, run, device=device, processes=processes)
        except Exception as error:
            print(f"rank {rank}: {type(error).__name__}: {error}", flush=True)
            raise SystemExit(1) from None
