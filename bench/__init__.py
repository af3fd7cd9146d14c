"""How fast is it? `python -m bench.run` measures a sidecar with an embedded store, from outside."""
