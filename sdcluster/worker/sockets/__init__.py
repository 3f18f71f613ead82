"""The listeners of a program's worker."""
