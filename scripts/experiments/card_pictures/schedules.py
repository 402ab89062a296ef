"""Pictures of the schedules' cards."""
