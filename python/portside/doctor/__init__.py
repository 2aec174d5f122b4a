"""``portside doctor``: why this host runs out of source ports, and what to do.

    from portside import doctor

    report = doctor.examine()          # this host, this network namespace; about a second
    print(report.verdict)
    for finding in report.findings:
        print(finding.severity.value, finding.id, finding.title)

Facts are gathered (``gather``, ``sockdiag``, ``database``: I/O), judged (``pairs``, ``checks``:
pure), and told (``report``, ``screen``). It knows no configuration and no instance, and imports
nothing that is not in the standard library before it is needed: it also runs from ``doctor.pyz``
on Python 3.9, on hosts that have never seen Portside.
"""

from __future__ import annotations

from dataclasses import replace

from portside.doctor.errors import DoctorError
from portside.doctor.facts import Facts
from portside.doctor.finding import Cure, Finding, Severity
from portside.doctor.login import Login
from portside.doctor.report import Report, diagnose

__all__ = [
    "Cure",
    "DoctorError",
    "Facts",
    "Finding",
    "Login",
    "Report",
    "Severity",
    "diagnose",
    "examine",
]


def examine(window_s: float = 1.0, login: Login | None = None) -> Report:
    """Examines the network namespace that the calling thread is in.

    Args:
        window_s: how long to watch the counters; less than that cannot tell "now" from "since
            the start". 0 reads them once.
        login: of a MySQL or MariaDB server to be asked, too; one that cannot be is a finding.

    Cost: ``window_s``, and 0.1 to 0.3 s per 100,000 sockets. Changes nothing. What could not be
    read is in ``Report.facts.unseen``.
    """
    from portside.doctor.gather import gather

    if login is None:
        return diagnose(gather(window_s))
    from portside.doctor.mysql import Session

    with Session(login) as session:
        facts = gather(window_s)
        database, unseen = session.database()
    return diagnose(replace(facts, database=database, unseen=(*facts.unseen, *unseen)))
