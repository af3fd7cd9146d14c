"""The words of the limiter: money, scopes, limits, windows, reservations, verdicts, errors.

Pure: no clock, no I/O, no environment, no log, no Redis, no protobuf.
"""
