"""BYTES: the contract between master and worker, as codecs without I/O.

Both sides import this package and neither imports the other. Whatever a decoder here is given
came from another process: each one limits sizes, checks types and raises `ProtocolError`.
"""
