"""The master of a program that uses the library."""
