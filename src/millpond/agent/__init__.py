"""What runs on every node: directories, processes, reports."""
