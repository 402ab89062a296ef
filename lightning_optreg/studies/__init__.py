"""Many fits that answer one question."""

from lightning_optreg.studies.records import Point, RunRecord, StudyResult, Unfinished

__all__ = ["Point", "RunRecord", "StudyResult", "Unfinished"]
