"""What the notebooks do, in modules that can be read and tested: each is named by the first line of the notebook's cell that needs it."""
