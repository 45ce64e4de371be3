"""The paper: its numbers as data, its tables as recipes."""
