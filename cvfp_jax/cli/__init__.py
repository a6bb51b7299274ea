"""The command line: flags to requests, nothing else."""
