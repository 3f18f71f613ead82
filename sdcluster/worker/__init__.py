"""CHILD: what runs in the app's own interpreter: the mold, and the workers it forks.

It needs the standard library, the rooms `errors`, `system`, `wire` and `messaging`, and the HTTP
engine found in the app's environment.
"""
