"""Fingerprints for cache keys: equal in every process for objects that do the same."""
