"""Whether the books are whole: every row, every sum, every day."""
