"""Training with mSAM: the optimizer, and runs that write checkpoints.

``mSAM`` stands alone in anyone's loop; ``train`` makes a :class:`Run` from a :class:`Task` and a :class:`TrainConfig`.
"""

from landscape.processes import ProcessLostError
from msam.batchnorm import BatchStatistics, RunningStatistics, ShardStatistics
from msam.config import TrainConfig
from msam.data import Examples
from msam.descents import CentralizedDescent, Descent
from msam.diagnostics import PerShard
from msam.distributed import Distributed
from msam.dropout import FreshMasks, SameMasks
from msam.evaluation import Evaluation, evaluate
from msam.execution import OneByOne
from msam.fastest import Fastest
from msam.layerwise import Layerwise
from msam.linear_course import LinearCourse
from msam.loading import Loaded, load_foreign
from msam.microbatches import microbatches
from msam.optimizer import mSAM
from msam.run import Run
from msam.schedules import RhoScheduler
from msam.selections import all_but_norm_layers, matching, norm_layers
from msam.tasks import Task
from msam.tasks.registry import load_task
from msam.training import TrainingDivergedError, launched, train
from msam.universal import DeterminantDescent, FrobeniusDescent, TraceDescent
from msam.vectorised import Vectorised

__all__ = [
    "mSAM",
    "OneByOne",
    "Layerwise",
    "Vectorised",
    "Fastest",
    "Distributed",
    "launched",
    "ProcessLostError",
    "PerShard",
    "microbatches",
    "Descent",
    "CentralizedDescent",
    "FrobeniusDescent",
    "TraceDescent",
    "DeterminantDescent",
    "ShardStatistics",
    "BatchStatistics",
    "RunningStatistics",
    "SameMasks",
    "FreshMasks",
    "RhoScheduler",
    "norm_layers",
    "all_but_norm_layers",
    "matching",
    "Task",
    "Examples",
    "load_task",
    "load_foreign",
    "Loaded",
    "TrainConfig",
    "Run",
    "train",
    "TrainingDivergedError",
    "Evaluation",
    "evaluate",
    "LinearCourse",
]
