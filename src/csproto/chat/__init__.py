"""The chat panel of the notebook.

Its session and its front end (`front_end/`, `chat.css`, `words.json`) also serve the page.
"""
