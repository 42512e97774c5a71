"""`make chaos`: real hosts and real servers, broken on purpose in the fifteen ways of `faults.py`, then checked.

network.py     loopback, or as root a network namespace for each host, joined by a bridge
servers.py     Valkey, PostgreSQL or a SQLite file, and a proxy (`proxy.py`) that can fall silent
documents.py   small PDFs whose pages all differ
engines.py     stand-ins that answer with the page's image hash and note each page that they begin
world.py       one trial: servers, hosts, documents; what was submitted, and how to wait for its end
faults_*.py    the faults, each a function of a world with a seeded random source
points.py      kill -9 at a named point inside a worker, and a clock that is wrong
history.py     triggers that note each change of state, and what must hold of all that was noted
"""
