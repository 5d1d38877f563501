"""Identities: the same text in every process for objects that do the same."""
