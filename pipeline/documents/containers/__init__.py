"""Files that hold files: what is in them, each member with a name and a way to read it, whatever strangers packed.

`members.py` says what a container is. The parsers here are Python's own and run without a sandbox: their faults raise,
they do not write elsewhere. What a hostile archive can do is to be large, so `limits.py` counts members and bytes, and
nothing is ever written under a member's name.
"""
