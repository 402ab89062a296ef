"""Strategies of Lightning's Trainer for parallel SGD, each also by name: `Trainer(strategy="Hogwild")`."""

__all__: list[str] = []
