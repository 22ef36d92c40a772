"""What starts the processes of tasks: real ones, and a fake for simulation."""
