"""Tests of `sdcluster.wire`."""
