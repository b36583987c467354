"""The folder and record of a run, and how a run is interrupted and resumed."""
