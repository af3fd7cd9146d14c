"""Policy answers one question: which limits apply to this call."""
