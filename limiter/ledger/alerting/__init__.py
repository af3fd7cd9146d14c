"""What people are told, once: in the log, by webhooks."""
