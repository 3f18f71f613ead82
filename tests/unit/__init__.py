"""Tests of what needs no processes: in milliseconds, with fakes written by hand."""
