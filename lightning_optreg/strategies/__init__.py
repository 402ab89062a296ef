"""Strategies of Lightning's Trainer for parallel SGD, each also by name: `Trainer(strategy="Hogwild")`."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_optreg.strategies.pipeline import PipelineParallel

__all__ = ["PipelineParallel"]

# In small letters, as Lightning looks them up.
StrategyRegistry.register(
    "pipelineparallel", PipelineParallel, description="a part of the network in each process"
)
