"""A provider's bill against the books: what differs, and why."""
