"""The parts of the spawner's program. They know the standard library only, and little of that."""
