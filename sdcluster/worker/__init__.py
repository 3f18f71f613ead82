"""CHILD: what runs in the app's own interpreter: the mold, and the workers it forks.

It needs the standard library, `sdcluster.wire`, those modules beside the folders that both sides
have, and the HTTP engine found in the app's environment.
"""
