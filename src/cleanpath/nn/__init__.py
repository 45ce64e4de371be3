"""The units and networks of the paper; read `unit.py` first."""
