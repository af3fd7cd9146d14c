"""How does Envoy talk to the limiter? Permission by ext_authz; settlement by ext_proc and the access log."""
