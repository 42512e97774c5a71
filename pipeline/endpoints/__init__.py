"""Servers that answer over HTTP as OpenAI's API does (vLLM, SGLang, llama.cpp, hosted ones): asked, paced, understood.

    Client      one thread of its own: sends, keeps to a pace, tries again, gives a future   client.py, lane.py
    pace        how many requests at once, how long to wait between tries: pure              pace.py
    Judge       a try that brought no answer: may it pass, and who is refused                failures.py, words.py
    Health      whether anybody is served: pure                                              health.py
    chat        a chat completion: the request's body, and what its answer says              chat.py
    catalogue   how models want to be asked                                                  catalogue.py
    Prices      what an answer costs                                                         prices.py

Whoever wants a model's answer asks so; engines, judges of a benchmark and checks are alike to it:

    client = Client(Server("https://host/v1", key))
    client.start(complete(client, chat_body("model", messages, max_tokens=64))).result().text
"""
