"""How does gRPC talk to it? Servicers, translation, and the server with its listeners."""
