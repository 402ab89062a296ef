"""Pictures of the losses' cards."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from card_pictures.registry import picture
from card_pictures.style import BLACK, BLUE, GREY, VERMILION, figure, label
from lightning_optreg.functional import multiclass_hinge, squared_error


@picture
def multiclass_hinge_loss() -> Figure:
    """Hinge losses and cross-entropy of two classes against the lead of the true one."""
    drawn, (axes,) = figure(width=4.6)
    lead = torch.linspace(-3, 3, 121)
    scores, labels = torch.stack((lead, torch.zeros(121)), 1), torch.zeros(121, dtype=torch.long)
    axes.plot(lead, multiclass_hinge(scores, labels), color=BLUE, label="hinge")
    axes.plot(lead, multiclass_hinge(scores, labels, power=2), "--", color=VERMILION, label="squared hinge")
    axes.plot(
        lead, F.cross_entropy(scores, labels, reduction="none"), ":", color=BLACK, label="cross-entropy"
    )
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.text(1.05, 5, r"$\Delta = 1$", fontsize=8)
    axes.set_ylim(0, 6)
    label(axes, "$s_{y} - s_{j}$, the lead of the true class", "loss", "two classes")
    return drawn


@picture
def squared_loss() -> Figure:
    """Squared error and cross-entropy against the true class's score."""
    drawn, (axes,) = figure(width=4.6)
    score = torch.linspace(-2, 4, 121)
    scores, labels = torch.stack((score, torch.zeros(121)), 1), torch.zeros(121, dtype=torch.long)
    axes.plot(score, squared_error(scores, labels), color=BLUE, label="squared error")
    axes.plot(
        score, F.cross_entropy(scores, labels, reduction="none"), ":", color=BLACK, label="cross-entropy"
    )
    axes.plot(1, 0, "o", color=BLUE)
    axes.text(1, 0.75, "target", fontsize=8, ha="center")
    axes.set_ylim(-0.2, 6)
    label(axes, "$s_{y}$; the other class's score is 0", "loss", "two classes")
    return drawn
