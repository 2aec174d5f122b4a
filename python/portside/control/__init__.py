"""What keeps a balancer alive: its state, its process, its reloads.

``state`` decides (pure), ``instance`` acts (one engine, one set of checks), ``supervisor`` owns the
process of ``portside run``. ``portside.Balancer`` is the same instance inside another program.
"""
