"""Workers on one machine that share one set of weights in memory."""
