"""Strategies of Lightning's Trainer for parallel SGD, each also by name: `Trainer(strategy="Hogwild")`."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_optreg.strategies.elastic_averaging import ElasticAveraging
from lightning_optreg.strategies.local_sgd import LocalSGD

__all__ = ["ElasticAveraging", "LocalSGD"]

StrategyRegistry.register("ElasticAveraging", ElasticAveraging, description="Elastic averaging SGD")
StrategyRegistry.register("LocalSGD", LocalSGD, description="Local SGD, or DiLoCo with an outer optimizer")
