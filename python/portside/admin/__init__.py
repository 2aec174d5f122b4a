"""The door for people and programs: the admin API, its client, and the metrics.

``server`` translates HTTP to ``control.verbs``; ``client`` is what the command line uses;
``views`` are the shapes both speak; ``metrics`` turns counters into Prometheus' text.
"""
