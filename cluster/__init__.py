"""Start a function somewhere: in this process, in a detached one, later on SLURM or Ray."""
