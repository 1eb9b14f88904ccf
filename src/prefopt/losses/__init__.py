"""Preference losses as pure functions of log-probabilities, the same for torch, jax and numpy.

LOSSES holds them by name, build_loss turns a recipe's list into one callable sum. Neither torch nor jax is imported.
"""

from prefopt.losses.added import loss_of, register_loss
from prefopt.losses.curves import curve
from prefopt.losses.loss import POSITIONAL, Loss
from prefopt.losses.mirror_file import export_mirror, load_mirror
from prefopt.losses.recipe import LossSum, Term, build_loss
from prefopt.losses.table import LOSSES, find_loss, list_losses

__all__ = [
    "LOSSES",
    "POSITIONAL",
    "Loss",
    "LossSum",
    "Term",
    "build_loss",
    "curve",
    "export_mirror",
    "find_loss",
    "list_losses",
    "load_mirror",
    "loss_of",
    "register_loss",
]
