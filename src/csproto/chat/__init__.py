"""The chat panel of the notebook.

Its session and its front end (`chat.js`, `chat.css`, `words.json`) also serve the page.
"""
