"""Warnings of libraries about each other, which a user of a command line can't do anything about."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_expected_warnings"]


@contextmanager
def without_expected_warnings() -> Iterator[None]:
    """Keep the warnings of a LightningCLI that is given its words off the console.

    Example:
        >>> with without_expected_warnings():
        ...     warnings.warn("LightningCLI's args parameter is intended to run from within Python")
    """
    with warnings.catch_warnings():
        # said of Python 3.11's pytree by torch 2.14 to Lightning 2.6, which calls it
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        # Lightning 2.6 calls methods that jsonargparse 4.53 deprecates
        warnings.filterwarnings("ignore", message=r"\s*(By default only one Json|``ArgumentParser|skip_none)")
        # Lightning compares with sys.argv, which the caller has read already
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        yield
