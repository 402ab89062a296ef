"""Where a run stands within its loops."""
