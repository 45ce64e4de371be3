"""Mend what the audit finds: a network is captured as a graph of operations, rewritten, and written out as Python."""
