"""Pictures of the losses' cards."""
