"""`pagepack serve`: the archive in a browser, and over HTTP.

It reads rows and page images, and writes only what it was started to allow: retries, and documents that programs add.
"""
