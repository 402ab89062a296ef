"""Update rules: `torch.optim.Optimizer`s that torch has not got, or not as the lecture writes them."""

from lightning_optreg.optimizers.update_rule import UpdateRule

__all__ = ["UpdateRule"]
