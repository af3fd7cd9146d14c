"""What customers owe, on documents that never change; and what is left of it."""
