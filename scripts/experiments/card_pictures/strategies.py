"""Pictures of the strategies' cards."""
