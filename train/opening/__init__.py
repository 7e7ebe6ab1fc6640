"""What people bring as a CHECKPOINT, found and made into a pipeline folder: files are linked, never copied."""
