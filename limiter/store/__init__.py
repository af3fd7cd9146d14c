"""Where is the truth kept? The port that the service sees, and its Redis implementation."""
