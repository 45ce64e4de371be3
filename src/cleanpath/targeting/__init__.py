"""How `targets` finds and builds a module of each kind, and makes up its inputs."""
