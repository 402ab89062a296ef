"""What parts ask of Lightning's Trainer, and what they do to its run, each in one place."""
