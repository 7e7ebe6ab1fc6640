"""What people bring instead of a pipeline folder, made into one before anything else looks at it."""
