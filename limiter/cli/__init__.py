"""The command line answers one question: what does an operator do."""
