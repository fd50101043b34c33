"""The command line: arguments to calls, calls to text."""
