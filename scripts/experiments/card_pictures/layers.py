"""Pictures of the layers' cards."""
