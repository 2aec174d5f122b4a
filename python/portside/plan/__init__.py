"""``portside plan``: how many source ports a load needs, how many there are, what to change first.

    from portside import plan

    result = plan.work_out(plan.Situation(rate=5000, close=plan.ToServer.FIN))
    print(result.headline)                # No: 5,000 connections/s need 300,050 source ports ...
    print(result.figure("wall").value)    # 470.5: here ports run out
    for change in result.changes:
        print(change.what, change.safe_rate)

The article's arithmetic. Every figure carries its formula, its assumption and its source. Runs
without the data plane and without a third-party package, on Python 3.9 as well; only reading a
configuration or a running instance needs the installed package.

situation    what is given;           arithmetic  situation -> figures (pure)
changes      what would help (pure);  result      the plan: verdict, headline, JSON (pure)
configured   a configuration -> situations (pure); instance, host: reading what runs, and this host
"""

from __future__ import annotations

from portside.plan.changes import Change
from portside.plan.figure import Figure
from portside.plan.result import Plan, Verdict, work_out
from portside.plan.situation import Chooser, PlanError, Situation, ToServer

__all__ = [
    "Change",
    "Chooser",
    "Figure",
    "Plan",
    "PlanError",
    "Situation",
    "ToServer",
    "Verdict",
    "work_out",
]
