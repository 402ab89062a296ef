"""The update rules of parallel SGD, on lists of tensors: strategies and the simulator share them.

None of them communicates: a rule says what a worker or a server does with what it has.
"""

from lightning_optreg.parallel.delays import Delays
from lightning_optreg.parallel.downpour import DownpourServer, DownpourWorker
from lightning_optreg.parallel.elastic import elastic_difference, move_centre, pull_centre, pull_worker
from lightning_optreg.parallel.elastic_server import ElasticServer
from lightning_optreg.parallel.late_step import Read, late_step, note_read
from lightning_optreg.parallel.local_sgd import outer_gradient, outer_step

__all__ = [
    "Delays",
    "DownpourServer",
    "DownpourWorker",
    "ElasticServer",
    "Read",
    "elastic_difference",
    "late_step",
    "move_centre",
    "note_read",
    "outer_gradient",
    "outer_step",
    "pull_centre",
    "pull_worker",
]
