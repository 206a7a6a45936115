"""What `learned-opt` can do: one module a command, each a dataclass whose fields are its options."""
