"""``portside lab --facts``: the measurements that Portside's rules rest on, made again here.

Each was made on Linux 6.18; this kernel may differ. A fact is data: what was measured there, and a
function that makes the same experiment in network namespaces of its own. Facts are numbered as in
docs/facts.md, "5/S9b" is row S9b of group 5.

fact       a fact, an outcome, and whether two outcomes are the same: pure
stage      the namespaces of one fact, their settings and their sockets
capacity, cliff, settings, closes, reuse, memory, sharing
           the facts, a group each
catalog    all of them, and the choice of ``--quick``
run        one after the other
report     results -> table, sentences, JSON: pure
"""
