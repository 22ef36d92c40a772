"""The messages between control plane and node agent; no sockets."""
