"""What `bench_quality` is made of: pages with their truth (`kinds`, drawn by `paper` and `scan` with the text of
`words`), those who read them (`readers`), and the scores (`score`)."""
