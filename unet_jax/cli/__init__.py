"""The command line. `main` finds the command, and each command has its own file."""
