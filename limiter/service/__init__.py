"""What happens on one call? Key, plan, estimate, hold, verdict."""
