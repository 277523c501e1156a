"""The command line: ``main.py`` reads arguments and turns errors into exit codes; the other modules hold the commands by subject."""
