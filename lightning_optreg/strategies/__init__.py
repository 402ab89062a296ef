"""Strategies of Lightning's Trainer for parallel SGD, each also by name: `Trainer(strategy="Hogwild")`."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_optreg.strategies.hogwild import Hogwild

__all__ = ["Hogwild"]

# Lightning looks names up in lower case.
StrategyRegistry.register("hogwild", Hogwild, description="Hogwild!: shared weights without locks")
