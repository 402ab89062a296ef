"""Functions that query Lightning's Trainer or change its run, each in one place."""
