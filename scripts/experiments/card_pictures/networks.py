"""Pictures of the networks' cards."""
