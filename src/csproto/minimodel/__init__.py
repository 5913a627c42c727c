"""The mini model that ships with the project: its corpus, its tokenizer, its training.

Needed only to rebuild it.
"""
