"""`pagepack serve`: the archive in a browser, and over HTTP. Reads rows and page images; writes only a retry."""
