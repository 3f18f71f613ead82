"""The worker of a program, and the script that it runs."""
