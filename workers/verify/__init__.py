"""`pagepack verify`: whether the packed engine computes what it should with a checkpoint's own weights.

    pages.py      sample pages: drawn, or the first of files that were given
    packed.py     through the engine, each page alone, then all in company: tokens and logits
    reference.py  the same pages and answers through mistral-inference, one at a time
    check.py      what was found, the verdict, and a file to send

The engine is gone before the reference is loaded: the weights are never in memory twice.
"""
