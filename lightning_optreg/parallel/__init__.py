"""The update rules of parallel SGD, on lists of tensors: strategies and the simulator share them.

None of them communicates: a rule says what a worker or a server does with what it has.
"""

from lightning_optreg.parallel.late_step import Read, late_step, note_read

__all__ = ["Read", "late_step", "note_read"]
