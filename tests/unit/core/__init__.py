"""Tests of `sdcluster.core`."""
