"""Any parts together train and resume to the bit, or are refused in one sentence that names a part."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.hardening.combinations import Combination, combinations, run_combination
from tests.hardening.search import by_effort, search

pytestmark = pytest.mark.usefixtures("blank_curves")


def check(it: Combination) -> None:
    with TemporaryDirectory() as folder:
        run_combination(it, Path(folder))


@by_effort(few=7, many=500)
def test_any_parts_train_and_resume_or_are_refused(examples: int) -> None:
    search(examples, combinations(), check, shrink=False)
