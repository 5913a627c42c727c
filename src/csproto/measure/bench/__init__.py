"""Speed, and what it costs: the same conversations on SGLang and vLLM, with and without what this package adds, as ratios with intervals.

work.py makes the conversations, engines.py runs the servers, arms.py says who answers, load.py plays, figures.py reckons, compare.py does it all in turn.
"""
