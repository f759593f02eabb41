"""The programs that `inferbench export` lays beside an artefact, as `load.py` and `check.py`.

They are copied as they are, and are read by people who have no inferbench: each imports numpy and the one library that
runs its artefact, and reads the rest from the `model.json` beside it. Nothing in inferbench imports them.
"""
