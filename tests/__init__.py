"""Where a test lies says what it needs; what several lean on lies beside this file.

unit       no server and no process of pagepack
database   calls of the store, of queries and of enqueueing, each on a database of its own, SQLite or PostgreSQL
processes  whole commands, runs and workers, and real servers around them
engine     the readers: Pixtral with tiny models and the shipped one, RapidOCR with its own
chaos      real hosts that are broken on purpose: `make chaos`
"""
