"""The master's children: molds, workers and keepers, from their order to their end."""
