"""Warnings that loaders of small data with workers raise wherever they are tested."""

import pytest

WORKERS = [
    # one processor, two workers
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # Python 3.12, threads of libraries
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
FEW_BATCHES = pytest.mark.filterwarnings(
    "ignore:The number of training batches:lightning.pytorch.utilities.warnings.PossibleUserWarning"
)
