"""The mold, and what becomes of the processes that it forks."""
