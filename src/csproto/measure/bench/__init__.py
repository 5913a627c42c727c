"""Speed: the same conversations on SGLang and on vLLM, with and without what this package adds.

The figures of every arm are compared as ratios with intervals. `work` picks the
conversations, `engines` runs the servers, `arms` says who answers, `load` plays,
`figures` calculates, `record` keeps the results, and `compare` does all of it in turn.
"""
