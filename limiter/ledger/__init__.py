"""The books: what was spent, in SQL, exactly once; and what is read from them."""
