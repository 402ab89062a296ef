"""Strategies of Lightning's Trainer for parallel SGD, each also by name: `Trainer(strategy="Hogwild")`."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_optreg.strategies.downpour import Downpour

__all__ = ["Downpour"]

if "Downpour" not in StrategyRegistry:
    StrategyRegistry.register("Downpour", Downpour, description="Downpour SGD with parameter servers on Ray")
