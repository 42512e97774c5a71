"""Servers that answer over HTTP as OpenAI's API does (vLLM, SGLang, llama.cpp, hosted ones): asked, paced, understood.

    Client      one thread of its own: sends, keeps to a pace, tries again, gives a future       client.py
    chat        a chat completion: the request's body, and what its answer says                  chat.py
    pace        how many requests at once, how long to wait between tries: pure                  pace.py

Whoever wants a model's answer takes these three; engines, judges and checks are alike to them.
"""
