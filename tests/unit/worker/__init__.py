"""Tests of `sdcluster.worker`."""
