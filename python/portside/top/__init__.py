"""``portside top``: a running instance in a terminal, live.

``feed`` asks the admin API in a thread of its own; ``frames`` keeps what it heard and works out
rates; ``boards`` turns it into lines, ``order`` sorts, filters and fits them; ``app`` draws and
listens to keys. Only ``feed`` does I/O and only ``app`` knows textual.
"""
