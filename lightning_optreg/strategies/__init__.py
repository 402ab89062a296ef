"""Strategies of Lightning's Trainer for parallel SGD, each also by name: `Trainer(strategy="Hogwild")`."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_optreg.strategies.own_weights.elastic_averaging import ElasticAveraging
from lightning_optreg.strategies.own_weights.local_sgd import LocalSGD
from lightning_optreg.strategies.servers.async_elastic_averaging import AsyncElasticAveraging
from lightning_optreg.strategies.servers.downpour import Downpour
from lightning_optreg.strategies.shared_memory.hogwild import Hogwild
from lightning_optreg.strategies.split.pipeline import PipelineParallel
from lightning_optreg.strategies.split.tensor_parallel import split_linear_layers, tensor_parallel_plan

__all__ = [
    "AsyncElasticAveraging",
    "Downpour",
    "ElasticAveraging",
    "Hogwild",
    "LocalSGD",
    "PipelineParallel",
    "split_linear_layers",
    "tensor_parallel_plan",
]

for _strategy in (AsyncElasticAveraging, Downpour, ElasticAveraging, Hogwild, LocalSGD, PipelineParallel):
    _sentence = (_strategy.__doc__ or "").partition("\n")[0]
    # The trainer looks names up in lower case.
    StrategyRegistry.register(_strategy.__name__.lower(), _strategy, description=_sentence)
