"""What the notebooks do, in modules that can be read and tested.

- `launching` starts servers and watches them (02).
- `frontend` and `traps` show SGLang's frontend language (03).
- `extraction` compares ways to constrain an answer (02, 03, 04 and the template).
- `prefix`, `tuning` and `versus` measure the prefix cache and the speed (06).
- `pitfalls`, `probes` and `release` test the limits before going live (07).
- `results` keeps what a notebook measured; `english` translates replies.
"""
