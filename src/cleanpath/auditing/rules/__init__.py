"""Rules over a profile, one function each; its docstring is its page."""
