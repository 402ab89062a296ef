"""Dropout in the lecture's two forms, which differ in where the expectation is kept.

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: a simple way to prevent neural networks
from overfitting", JMLR 2014. The paper scales the weights at test ("vanilla"); today's libraries scale the
activations in training ("inverted") and leave the network alone at test.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers.noise import NoiseLayer

__all__ = ["Dropout", "vanilla_dropout"]


def vanilla_dropout(x: Tensor, p: float) -> Tensor:
    """Drop activations and scale nothing: y_i = u_i x_i with u_i = 0 with probability p, else 1.

    Args:
        x: Activations of any shape.
        p: Probability to drop one, in [0, 1].

    Returns:
        The remaining activations, of the same shape.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.dropout import vanilla_dropout
        >>> _ = torch.manual_seed(0)
        >>> vanilla_dropout(torch.tensor([1.0, 2.0, 3.0, 4.0]), 0.5)
        tensor([0., 0., 3., 0.])
    """
    return x * torch.empty_like(x).bernoulli_(1.0 - p)


class Dropout(NoiseLayer):
    """Set each activation to zero with probability p in training, independently of all others.

    In the lecture's terms, with u ~ Bernoulli(1 - p) for each activation:

        vanilla:   training y = u x              test y = (1 - p) x
        inverted:  training y = u x / (1 - p)    test y = x

    Both have the same expectation in training and at test. p is the probability to drop, as in torch; the p
    in the lecture's code is the probability to keep. Inverted, it is `torch.nn.Dropout`, with the same random
    numbers; unlike that, `sampling` keeps it on in evaluation.

    Args:
        p: Probability to drop an activation, in [0, 1). With 0 the layer is the identity and draws nothing.
            Default: 0.5.
        form: `inverted` or `vanilla`. Default: inverted.

    Shape:
        Any shape -> the same.

    Raises:
        ValueError: If p is out of range or the form is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import Dropout
        >>> x = torch.ones(4)
        >>> Dropout(0.25, form="vanilla").eval()(x)
        tensor([0.7500, 0.7500, 0.7500, 0.7500])
        >>> Dropout(0.25).eval()(x)
        tensor([1., 1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, *, form: Literal["inverted", "vanilla"] = "inverted") -> None:
        super().__init__()
        check_range("Dropout", "[0, 1)", p=p)
        check_choice("Dropout", ("inverted", "vanilla"), form=form)
        self.p = p
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        """Drop activations, or at test keep the expectation."""
        if self.p == 0.0:
            return x
        if self.form == "inverted":
            return F.dropout(x, self.p) if self.noisy else x
        return vanilla_dropout(x, self.p) if self.noisy else x * (1.0 - self.p)

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return f"p={self.p}, form={self.form}"
