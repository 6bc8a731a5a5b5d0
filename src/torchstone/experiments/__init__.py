"""Experiments: what the field says of its methods, put to the test.

`claims/` has a module for each claim. `claim.py` says what a module holds, `running.py` measures it once
a seed, `training.py` trains systems for it, `figures.py` draws it, `page.py` writes the page of verdicts.
"""
