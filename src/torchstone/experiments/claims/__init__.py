"""One module a claim, named as the claim is; what a module holds: `experiments/claim.py`."""
