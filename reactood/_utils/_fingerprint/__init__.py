"""The identity of things: equal in every process for those that do the same."""
