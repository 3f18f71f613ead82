"""The configuration of one app: a TOML file or command-line options, checked as a whole."""
