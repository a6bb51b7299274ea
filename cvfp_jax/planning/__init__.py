"""What a run will take: memory, operations and time."""
