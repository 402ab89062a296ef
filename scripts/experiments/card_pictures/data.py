"""Pictures of the transforms' cards."""
