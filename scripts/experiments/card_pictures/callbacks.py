"""Pictures of the callbacks' cards."""
