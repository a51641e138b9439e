"""Training with mSAM: the optimizer, and runs that write checkpoints.

``mSAM`` stands alone in anyone's loop; ``train`` makes a :class:`Run` from a :class:`Task` and a :class:`TrainConfig`.
"""

from msam.config import TrainConfig
from msam.evaluation import Evaluation, evaluate
from msam.execution import OneByOne
from msam.layerwise import Layerwise
from msam.microbatches import microbatches
from msam.optimizer import mSAM
from msam.run import Run
from msam.tasks import Task, load_task
from msam.training import TrainingDivergedError, train

__all__ = [
    "mSAM",
    "OneByOne",
    "Layerwise",
    "microbatches",
    "Task",
    "load_task",
    "TrainConfig",
    "Run",
    "train",
    "TrainingDivergedError",
    "Evaluation",
    "evaluate",
]
