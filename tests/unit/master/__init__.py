"""Tests of `sdcluster.master`."""
