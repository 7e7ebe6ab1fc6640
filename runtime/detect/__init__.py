"""The command that finds the mark in pictures, and the bundle that it names: `python -m runtime.detect FILE...`."""
