"""The command line, if it is installed."""
