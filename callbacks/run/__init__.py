"""A run's folder and record, and how a run is interrupted and resumed."""
