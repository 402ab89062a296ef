"""Many fits that answer one question: the command `compare`."""

from lightning_optreg.studies.command import main
from lightning_optreg.studies.records import Point, RunRecord, StudyResult, Unfinished

__all__ = ["Point", "RunRecord", "StudyResult", "Unfinished", "main"]
