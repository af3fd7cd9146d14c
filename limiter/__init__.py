"""Limiter: a hard dollar ceiling on LLM spend. Reserve before the call, Settle after it."""

__version__ = "0.1.0"
