"""What libraries say that is of no use at a command line: warnings about each other, advertising."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

__all__ = ["without_expected_warnings"]

# Where Lightning 2.6 says it: through the first in most places, through the second in Fabric.
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)
_UNASKED = (
    "\N{ELECTRIC LIGHT BULB} Tip:",  # to install another product
    "Restoring states from the checkpoint",  # before the loading, which is said as well
    "`weights_only` was not set",  # of what a checkpoint that is being written holds: all
    "GPU available: False",
    "TPU available: False",
    "`Trainer.fit` stopped: `max_epochs=",  # which was asked for
)


class _Filter(logging.Filter):
    """Lets all messages pass but those that nobody needs."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        # Lightning's search for a learning rate takes back its own steps so
        return not message.startswith(_UNASKED) and "/.lr_find_" not in message


@contextmanager
def without_expected_warnings() -> Iterator[None]:
    """Keep warnings and messages that a user can't do anything about off the console.

    Example:
        >>> with without_expected_warnings():
        ...     warnings.warn("LightningCLI's args parameter is intended to run from within Python")
    """
    unasked = _Filter()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(unasked)
    try:
        with warnings.catch_warnings():
            _ignore()
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(unasked)


def _ignore() -> None:
    # said of Python 3.11's pytree by torch 2.14 to Lightning 2.6, which calls it
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
    # Lightning 2.6 calls methods that jsonargparse 4.53 deprecates
    warnings.filterwarnings("ignore", message=r"\s*(By default only one Json|``ArgumentParser|skip_none)")
    # Lightning compares with sys.argv, which the caller has read already
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    # a checkpoint's weights are the average, and so is the network that is measured
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback, but loading")
    # of the logging interval's default, which a fit with few batches is shorter than
    warnings.filterwarnings("ignore", message="The number of training batches")
