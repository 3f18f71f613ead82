"""The command, and what stands around it: options in, exit status out."""
