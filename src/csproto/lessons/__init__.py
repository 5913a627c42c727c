"""What the notebooks do, in modules that can be read and tested: each notebook imports those it needs in its first cell."""
