"""The families that ship. Every class in a module here that gives itself a `name` is one: see `FAMILIES`."""
