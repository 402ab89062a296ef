"""A run that is stopped and resumed equals one that never stopped."""
